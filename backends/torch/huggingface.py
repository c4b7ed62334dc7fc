"""Distillation in the Hugging Face ``Trainer``: `MCLDTrainer`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Trainer

from mcld_core.backends.torch.distributed import gather_keys, world_size
from mcld_core.config import MCLDConfig
from mcld_core.losses import mcld_loss


class MCLDTrainer(Trainer):
    """A ``transformers.Trainer`` whose loss is `mcld_core.mcld_loss` with a teacher.

    For models that give one row of logits a sample (sequence, image or audio classification). The
    teacher answers the same inputs, or its answers come with the data: a column
    ``teacher_logits``, with ``TrainingArguments(remove_unused_columns=False)``.

    The loss is normalised as the Trainer asks for, by ``num_items_in_batch``, the labels of all
    batches that are accumulated for a step (and of all ranks): how a step is split into batches
    changes its keys, but no sample's weight. The ramp follows the Trainer's own step counter, so a
    resume from a checkpoint needs nothing more. Several ranks contrast with each other's rows.

    Args:
        teacher: a model that answers the student's inputs; None if the data brings its logits. It
            is moved to the Trainer's device, frozen and set to eval mode.
        mcld_config: the settings.
        *args: as ``Trainer``.
        **kwargs: as ``Trainer``.

    Example::

        trainer = MCLDTrainer(
            model=student, teacher=teacher, args=TrainingArguments("out"), train_dataset=data
        )
        trainer.train()
    """

    def __init__(
        self,
        *args: Any,
        teacher: nn.Module | None = None,
        mcld_config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher
        self.mcld_config = mcld_config
        if teacher is not None:
            teacher.requires_grad_(False).eval().to(self.args.device)
        # The loss is ours: the Trainer counts the items whatever the model's own loss takes.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss, and the model's outputs if asked for.

        Raises:
            ValueError: no teacher and no teacher logits, or logits that are not (batch, classes).
        """
        given = {k: v for k, v in inputs.items() if k not in ("labels", "teacher_logits")}
        labels = inputs.get("labels")
        outputs = model(**given)
        student = _logits(outputs, "model")
        teacher = inputs.get("teacher_logits")
        if teacher is None:
            if self.teacher is None:
                raise ValueError(
                    "MCLDTrainer: teacher needs a model, or the data a column 'teacher_logits' "
                    f"(with remove_unused_columns=False); got None and {sorted(inputs)}"
                )
            with torch.no_grad():
                teacher = _logits(self.teacher(**given), "teacher")
        progress, keys = 1.0, None
        if model.training and self.state.max_steps > 0:
            progress = self.state.global_step / self.state.max_steps
        if model.training and world_size() > 1:
            keys = gather_keys(teacher, labels, ignore_index=self.mcld_config.ignore_index)
        by_items = num_items_in_batch is not None
        loss = mcld_loss(
            student,
            teacher,
            labels,
            config=self.mcld_config,
            keys=keys,
            progress=progress,
            reduction="sum" if by_items else "mean",
        )
        if by_items:
            # The Trainer counts entries: a soft label has one for each class.
            entries = labels.shape[1] if labels is not None and labels.ndim == 2 else 1
            # 0 where no sample of the step has a label: so is the sum
            items = torch.as_tensor(num_items_in_batch).clamp(min=1)
            loss = loss * entries / items
            if self.args.average_tokens_across_devices:  # the mean over the ranks is yet to come
                loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


def _logits(outputs: Any, name: str) -> torch.Tensor:
    logits: torch.Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    if logits.ndim != 2:
        raise ValueError(
            f"MCLDTrainer: the logits of the {name} need shape (batch, classes); got "
            f"{tuple(logits.shape)}. For tokens use mcld_core.extensions.nlp.token_mcld_loss"
        )
    return logits

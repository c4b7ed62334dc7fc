"""Distillation in the Hugging Face ``Trainer``: `MCLDTrainer`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from mcld_core.arguments import Checks
from mcld_core.config import MCLDConfig
from mcld_core.files import replacement
from mcld_core.torch.distributed import raising_on_every_rank
from mcld_core.torch.loss import MCLDLoss

CLASS_MEANS = "class_means.pt"
"""The file of a checkpoint that holds the class means."""
_CHECKS = Checks("MCLDTrainer")


class MCLDTrainer(Trainer):
    """A ``transformers.Trainer`` whose loss is `mcld_core.mcld_loss` with a teacher.

    For models that give one row of logits a sample (sequence, image or audio classification). The
    teacher answers the same inputs, or its answers come with the data: a column
    ``teacher_logits``, with ``TrainingArguments(remove_unused_columns=False)``.

    The loss is normalised as the Trainer asks for, by ``num_items_in_batch``, the labels of all
    batches that are accumulated for a step (and of all ranks): how a step is split into batches
    changes its keys, but no sample's weight. The warm-up follows the Trainer's own step counter, so
    a resume from a checkpoint needs nothing more. Several ranks contrast with each other's rows.

    Args:
        teacher: a model that answers the student's inputs; None if the data brings its logits. It
            is frozen, set to eval mode, and moved to the Trainer's device unless it has a map.
        mcld_config: the settings.
        class_prior: (classes,) counts or probabilities of the labels, see `mcld_core.mcld_loss`.
        balanced: whether to train a balanced classifier, see `mcld_core.adjust_logits`.
        class_means: whether `mcld_core.ClassMeans` follow the batches of the training (those of all
            ranks), as keys of ``category_contrast="prototypes"``: every class in every step. A
            checkpoint holds them.
        *args: as ``Trainer``.
        **kwargs: as ``Trainer``.

    Raises:
        ValueError: ``compute_loss_func``, or in the arguments a ``label_smoothing_factor`` or
            ``label_names`` without ``"labels"``: the loss would not heed them; class means without
            prototypes.

    Warns:
        UserWarning: at the first training batch on a CPU, logits that are not finite or look like
            probabilities.

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
        class_prior: Any = None,
        balanced: bool = False,
        class_means: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        _CHECKS.trainer(self, "mcld_loss, by mcld_config, of the column 'labels', also soft ones")
        settings = {"class_prior": class_prior, "balanced": balanced, "class_means": class_means}
        classes = getattr(getattr(self.model, "config", None), "num_labels", None)
        if class_means and classes is None:
            came = f"one without it, {type(self.model).__name__}"
            raise _CHECKS.wrong("class_means needs a model whose config has num_labels", came)
        self.loss = MCLDLoss(mcld_config, classes=classes, **settings).to(self.args.device)
        self.teacher = teacher
        if teacher is not None:
            teacher.requires_grad_(False).eval()
            if not getattr(teacher, "hf_device_map", None):
                teacher.to(self.args.device)
        # The loss is ours: the Trainer counts the items whatever the model's own loss takes.
        self.model_accepts_loss_kwargs = True

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Put the class means into the checkpoint as well; all ranks have the same."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self.loss.has_class_means and self.args.should_save:
            with replacement(Path(output_dir) / CLASS_MEANS) as file:
                torch.save(self.loss.state_dict(), file)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Go on with the class means of the checkpoint."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.loss.has_class_means and checkpoint and (Path(checkpoint) / CLASS_MEANS).is_file():
            stored = torch.load(Path(checkpoint) / CLASS_MEANS, "cpu", weights_only=True)
            self.loss.load_state_dict(stored)

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
        outputs, training = model(**given), bool(getattr(model, "training", False))
        # in the evaluation no rank waits for another
        with raising_on_every_rank() if training else nullcontext():
            student = self._logits(outputs, "model")
            teacher = self._answers(inputs, given)
        self.loss.train(training).gathers = training
        labels, steps = inputs.get("labels"), self.state.max_steps
        loss: torch.Tensor = self.loss(
            student,
            teacher,
            labels,
            progress=self.state.global_step / steps if training and steps > 0 else 1.0,
            reduction="mean" if num_items_in_batch is None else "sum",
        )
        if num_items_in_batch is not None:
            # The Trainer counts entries: a soft label has one for each class.
            entries = labels.shape[1] if labels is not None and labels.ndim == 2 else 1
            # 0 where nothing of the step has a label: so is the sum
            loss = loss * entries / torch.as_tensor(num_items_in_batch).flatten()[0].clamp(min=1)
            if self.args.average_tokens_across_devices:
                # the mean over the ranks is yet to come
                loss = loss * self.accelerator.num_processes
        outputs = outputs if isinstance(outputs, dict) else (loss, *outputs)  # as the Trainer reads
        return (loss, outputs) if return_outputs else loss

    def _answers(self, inputs: dict[str, Any], given: dict[str, Any]) -> Any:
        """Return what the teacher says of a batch."""
        if inputs.get("teacher_logits") is not None:
            return inputs["teacher_logits"]
        if self.teacher is None:
            needs = "teacher needs a model, or the data a column 'teacher_logits' (with"
            needs += " remove_unused_columns=False)"
            raise _CHECKS.wrong(needs, f"None and {sorted(inputs)}")
        with torch.no_grad():
            return self._logits(self.teacher(**given), "teacher")

    def _logits(self, outputs: Any, name: str) -> torch.Tensor:
        """Return a model's logits."""
        logits: torch.Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        if logits.ndim != 2:
            needs = f"the logits of the {name} need shape (batch, classes)"
            cure = "For language models there is TokenKDTrainer of mcld_core.extensions.nlp"
            raise _CHECKS.wrong(needs, tuple(logits.shape), cure)
        return logits

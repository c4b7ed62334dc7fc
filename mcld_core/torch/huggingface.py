"""Distillation in the Hugging Face ``Trainer``: `MCLDTrainer`."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from mcld_core.adapters import SWAPPED, adapter_settings
from mcld_core.arguments import Checks
from mcld_core.config import MCLDConfig
from mcld_core.files import replacement
from mcld_core.torch.distributed import raising_on_every_rank
from mcld_core.torch.loss import MCLDLoss

CLASS_MEANS = "class_means.pt"
"""The file of a checkpoint that holds the class means."""


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
            is moved to the Trainer's device, frozen and set to eval mode.
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
        UserWarning: a student without trained weights beside a teacher that has some; at the first
            training batch on a CPU, logits that are not finite or look like probabilities.

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
        self._name = type(self).__name__
        settings = {"class_prior": class_prior, "balanced": balanced, "class_means": class_means}
        adapter_settings(self._name, mcld_config, **settings)
        super().__init__(*args, **kwargs)
        self._refuse_what_it_does_not_heed()
        self.teacher = teacher
        self.mcld_config = mcld_config
        self._settings = settings
        self.loss: MCLDLoss | None = None  # none before the first batch, which shows the classes
        if class_means:
            self.add_callback(_SaveClassMeans(self))
        if teacher is not None:
            if _learns(teacher) and not _learns(self.model):
                cure = SWAPPED.format("Pass the student as model=, the teacher as teacher=")
                warnings.warn(f"{self._name}: {cure}", UserWarning, stacklevel=2)
            teacher.requires_grad_(False).eval().to(self.args.device)
        # The loss is ours: the Trainer counts the items whatever the model's own loss takes.
        self.model_accepts_loss_kwargs = True

    def _refuse_what_it_does_not_heed(self) -> None:
        """Raise for settings of the Trainer's own loss."""
        smoothing, names = self.args.label_smoothing_factor, self.args.label_names
        checks, other_loss = Checks(self._name), self.compute_loss_func
        if other_loss is not None:
            cure = "The loss is mcld_loss: set it by mcld_config, or override compute_loss"
            raise checks.wrong("compute_loss_func needs None", repr(other_loss), cure)
        if smoothing:
            cure = "The teacher's answers are soft already; for smooth labels pass them, (batch,"
            cure += " classes), in the data"
            raise checks.wrong("label_smoothing_factor needs 0", smoothing, cure)
        if names is not None and "labels" not in names:
            raise checks.wrong("label_names needs 'labels' among them", names, "Rename the column")

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as ``Trainer.train`` does; a resumed training goes on with its class means."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)
        self.loss = None
        if folder and self._settings["class_means"]:
            stored = torch.load(Path(folder) / CLASS_MEANS, weights_only=True)
            self.loss = self._loss(len(stored["class_counts"]))
            self.loss.load_state_dict(stored)
        return super().train(resume_from_checkpoint, **kwargs)

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
        if self.loss is None:
            self.loss = self._loss(student.shape[1])
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
            loss = loss * entries / torch.as_tensor(num_items_in_batch).clamp(min=1)
            if self.args.average_tokens_across_devices:
                # the mean over the ranks is yet to come
                loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _answers(self, inputs: dict[str, Any], given: dict[str, Any]) -> Any:
        """Return what the teacher says of a batch."""
        if inputs.get("teacher_logits") is not None:
            return inputs["teacher_logits"]
        if self.teacher is None:
            needs = "teacher needs a model, or the data a column 'teacher_logits' (with"
            needs += " remove_unused_columns=False)"
            raise Checks(self._name).wrong(needs, f"None and {sorted(inputs)}")
        with torch.no_grad():
            return self._logits(self.teacher(**given), "teacher")

    def _loss(self, classes: int) -> MCLDLoss:
        """Return the loss of logits of so many classes."""
        found = MCLDLoss(self.mcld_config, classes=classes, **self._settings)
        found.first_look.name = self._name
        return found.to(self.args.device)

    def _logits(self, outputs: Any, name: str) -> torch.Tensor:
        """Return a model's logits."""
        logits: torch.Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        if logits.ndim != 2:
            needs = f"the logits of the {name} need shape (batch, classes)"
            cure = "For language models there is TokenKDTrainer of mcld_core.extensions.nlp"
            raise Checks(self._name).wrong(needs, tuple(logits.shape), cure)
        return logits


def _learns(model: nn.Module) -> bool:
    """Whether a weight of the model needs a gradient."""
    return any(weight.requires_grad for weight in model.parameters())


class _SaveClassMeans(TrainerCallback):
    """Put the class means into each checkpoint; all ranks have the same."""

    def __init__(self, trainer: MCLDTrainer) -> None:
        self.trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write them beside the model."""
        loss, folder = self.trainer.loss, Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if loss is not None and state.is_world_process_zero and folder.is_dir():
            with replacement(folder / CLASS_MEANS) as file:
                torch.save(loss.state_dict(), file)

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

from mcld_core.adapters import SWAPPED, FirstLook, check_class_means, step_keys
from mcld_core.config import MCLDConfig, check_config
from mcld_core.files import replacement
from mcld_core.keys import TeacherKeys
from mcld_core.logits import adjust_logits, checked_prior
from mcld_core.losses import mcld_loss
from mcld_core.running_means import ClassMeans
from mcld_core.torch.distributed import gather_with_index, raising_on_every_rank, world_size

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

    _ours = frozenset({"labels", "teacher_logits"})
    """The columns that are not for the models."""

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
        check_config(self._name, mcld_config)
        check_class_means(self._name, class_means, mcld_config)
        prior = checked_prior(self._name, class_prior, balanced)
        super().__init__(*args, **kwargs)
        self._refuse_what_it_does_not_heed()
        self.teacher = teacher
        self.mcld_config = mcld_config
        self.class_prior = None if prior is None else torch.from_numpy(prior).to(self.args.device)
        self.balanced = balanced
        self.has_class_means = class_means
        self.class_means: ClassMeans | None = None  # none before the first batch
        if class_means:
            self.add_callback(_SaveClassMeans(self))
        self._first_look = FirstLook(self._name)
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
        if self.compute_loss_func is not None:
            raise ValueError(
                f"{self._name}: compute_loss_func needs None; got {self.compute_loss_func!r}. The "
                "loss is mcld_loss: set it by mcld_config, or override compute_loss"
            )
        if smoothing:
            raise ValueError(
                f"{self._name}: label_smoothing_factor needs 0; got {smoothing}. The teacher's "
                "answers are soft already; for smooth labels pass them, (batch, classes), in the "
                "data"
            )
        if names is not None and "labels" not in names:
            raise ValueError(
                f"{self._name}: label_names needs 'labels' among them; got {names}. Rename the "
                "column"
            )

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as ``Trainer.train`` does; a resumed training goes on with its class means."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)
        self.class_means = None
        if folder and self.has_class_means:
            stored = torch.load(
                Path(folder) / CLASS_MEANS, map_location=self.args.device, weights_only=True
            )
            self.class_means = ClassMeans(**stored)
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
        given = {k: v for k, v in inputs.items() if k not in self._ours}
        outputs = model(**given)
        # in the evaluation no rank waits for another
        with raising_on_every_rank() if getattr(model, "training", False) else nullcontext():
            student = self._logits(outputs, "model")
            teacher = self._answers(inputs, given)
        items = None
        if num_items_in_batch is not None:
            # 0 where nothing of the step has a label: so is the sum
            items = torch.as_tensor(num_items_in_batch).clamp(min=1)
        loss = self._distil(student, teacher, inputs, items, model.training)
        if items is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the mean over the ranks is yet to come
        return (loss, outputs) if return_outputs else loss

    def _answers(self, inputs: dict[str, Any], given: dict[str, Any]) -> Any:
        """Return what the teacher says of a batch."""
        if inputs.get("teacher_logits") is not None:
            return inputs["teacher_logits"]
        if self.teacher is None:
            raise ValueError(
                f"{self._name}: teacher needs a model, or the data a column 'teacher_logits' "
                f"(with remove_unused_columns=False); got None and {sorted(inputs)}"
            )
        with torch.no_grad():
            return self._logits(self.teacher(**given), "teacher")

    def _progress(self, training: bool) -> float:
        """Return the part of the training that is done; 1 outside of it."""
        if training and self.state.max_steps > 0:
            return float(self.state.global_step / self.state.max_steps)
        return 1.0

    def _distil(
        self,
        student: torch.Tensor,
        teacher: Any,
        inputs: dict[str, Any],
        items: torch.Tensor | None,
        training: bool,
    ) -> torch.Tensor:
        """Return the loss of a batch: its sum over ``items``, or its mean."""
        labels, keys, updated = inputs.get("labels"), None, self.class_means
        if training and world_size() > 1:
            keys, _ = gather_with_index(
                teacher,
                (labels, None, None),
                index=None,
                ignore_index=self.mcld_config.ignore_index,
                rows=None,
                student_and_progress=(student, self._progress(training)),
            )
        if self.has_class_means:
            rows = TeacherKeys(teacher, labels) if keys is None else keys
            means = self.class_means or ClassMeans.empty(teacher.shape[1], like=teacher)
            keys, _, updated = step_keys(rows, None, means, self.mcld_config, training)
        loss: torch.Tensor = mcld_loss(
            adjust_logits(student, self.class_prior) if self.balanced else student,
            teacher,
            labels,
            config=self.mcld_config,
            keys=keys,
            class_prior=self.class_prior,
            progress=self._progress(training),
            reduction="mean" if items is None else "sum",
        )
        if training:
            self.class_means = updated  # only now, so that a call that raises leaves it as it was
            self._first_look.look(student, teacher, labels, None, self.mcld_config, stacklevel=3)
        if items is None:
            return loss
        # The Trainer counts entries: a soft label has one for each class.
        return loss * (labels.shape[1] if labels is not None and labels.ndim == 2 else 1) / items

    def _logits(self, outputs: Any, name: str) -> torch.Tensor:
        """Return a model's logits."""
        logits: torch.Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        if logits.ndim != 2:
            raise ValueError(
                f"MCLDTrainer: the logits of the {name} need shape (batch, classes); got "
                f"{tuple(logits.shape)}. For language models there is "
                "mcld_core.extensions.nlp.huggingface.TokenKDTrainer"
            )
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
        means = self.trainer.class_means
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if means is not None and state.is_world_process_zero and folder.is_dir():
            with replacement(folder / CLASS_MEANS) as file:
                torch.save(means._asdict(), file)

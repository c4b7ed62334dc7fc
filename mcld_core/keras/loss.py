"""MCLD as a Keras loss, for cached teacher logits."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import keras
from keras import ops

from mcld_core.adapters import loss_of_step, start
from mcld_core.arguments import Checks
from mcld_core.config import MCLDConfig
from mcld_core.typing import Array, Float, Labels, Logits


@keras.saving.register_keras_serializable("mcld")
class MCLDLoss(keras.losses.Loss):
    """MCLD for ``compile(loss=...)``, with the teacher's logits cached in the targets.

    ``y_true`` is one array that holds, side by side, the teacher's logits and the label:

    - (batch, classes + 1): teacher logits, then the int label as a float;
    - (batch, 2 · classes): teacher logits, then soft labels;
    - (batch, classes): teacher logits alone; the teacher's arg max stands for the label.

    ``y_pred`` are the student's logits, (batch, classes). A row counts as in
    `mcld_core.mcld_loss`: rows whose label is ``config.ignore_index`` are dropped, and the default
    reduction is ``Σ v L / Σ v`` with v the sample weight. The terms are a reconstruction from the
    description of the method.

    A Keras loss has no state, so ``progress`` is a constant: use `MCLDDistiller` for the warm-up of
    the category-wise term, and for a bank. ``class_weight`` of ``fit`` cannot read such targets
    (Keras takes their arg max for the class): pass ``sample_weight``.

    Args:
        config: the settings; None: ``MCLDConfig()``.
        progress: the part of the training that is done, 0 to 1; drives the warm-up.
        class_prior: (classes,) counts or probabilities of the labels, see `mcld_core.mcld_loss`.
        balanced: whether to train a balanced classifier, see `mcld_core.adjust_logits`.
        reduction: as in every Keras loss; ``"mean_with_sample_weight"`` is Σ v L / Σ v.
        name: the loss's name.
        dtype: the dtype to compute in, float32 (the default unless Keras' ``floatx`` is float64)
            or float64. Half-precision predictions are converted.

    Raises:
        ValueError: a half-precision ``dtype``, or targets of another width.

    Example:
        >>> import numpy as np
        >>> from mcld_core.keras import MCLDLoss
        >>> teacher, labels = 5 * np.eye(3), np.arange(3)
        >>> y_true = np.concatenate([teacher, labels[:, None]], axis=-1)
        >>> round(float(MCLDLoss()(y_true, np.eye(3))), 4)
        1.6071
    """

    def __init__(
        self,
        config: MCLDConfig | None = None,
        *,
        progress: float = 1.0,
        class_prior: Any = None,
        balanced: bool = False,
        reduction: str | None = "mean_with_sample_weight",
        name: str = "mcld_loss",
        dtype: Any = None,
    ) -> None:
        if dtype is None:
            dtype = "float64" if keras.config.floatx() == "float64" else "float32"
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if self.dtype not in ("float32", "float64"):
            came = f"{self.dtype!r}, which cannot hold the labels in y_true"
            cure = "Half-precision predictions need no setting"
            raise Checks("MCLDLoss").wrong("dtype needs 'float32' or 'float64'", came, cure)
        self.config = MCLDConfig() if config is None else config
        self.class_prior = start("MCLDLoss", self.config, class_prior, balanced)[0]
        self.progress = progress
        self.balanced = balanced

    def __call__(
        self,
        y_true: Float[Array, "batch targets"],
        y_pred: Logits,
        sample_weight: Float[Array, " batch"] | None = None,
    ) -> Array:
        """Return the reduced loss; the rows that `ignore_index` drops weigh 0."""
        y_true = ops.convert_to_tensor(y_true, dtype=self.dtype)
        _, labels = self._split(y_true, y_pred)
        if labels is not None and len(labels.shape) == 1:
            kept = ops.cast(ops.not_equal(labels, self.config.ignore_index), self.dtype)
            if sample_weight is not None:
                sample_weight = as_rows(ops.convert_to_tensor(sample_weight, dtype=self.dtype))
            sample_weight = kept if sample_weight is None else sample_weight * kept
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Float[Array, "batch targets"], y_pred: Logits) -> Array:
        """Return the loss of each row, (batch,)."""
        rows = y_pred, *self._split(y_true, y_pred), None, None
        return loss_of_step(self, rows, progress=self.progress, reduction="none")[0]

    def get_config(self) -> dict[str, Any]:
        """Return what the constructor needs to make this loss again."""
        own = {"config": asdict(self.config), "progress": self.progress, "dtype": self.dtype}
        return {**super().get_config(), **own, **prior_config(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Make the loss that `get_config` described."""
        return cls(**{**config, "config": MCLDConfig(**config["config"])})

    def _split(self, y_true: Array, y_pred: Array) -> tuple[Logits, Labels | None]:
        width, classes = y_true.shape[-1], y_pred.shape[-1]
        if len(y_true.shape) != 2 or width not in (classes, classes + 1, 2 * classes):
            needs = "y_true needs shape (batch, classes) for teacher logits, (batch, classes + 1)"
            needs += " with an int label behind them, or (batch, 2 · classes) with soft labels"
            came = f"{tuple(y_true.shape)} for {classes} classes"
            raise Checks("MCLDLoss").wrong(needs, came)
        teacher = y_true[:, :classes]
        if width == classes:
            return teacher, None
        if width == classes + 1:
            return teacher, ops.cast(y_true[:, classes], "int32")
        return teacher, y_true[:, classes:]


def prior_config(keeper: Any) -> dict[str, Any]:
    """Return the class prior of a loss or a model as `get_config` has it."""
    prior = keeper.class_prior
    return {"class_prior": None if prior is None else prior.tolist(), "balanced": keeper.balanced}


def as_rows(x: Array) -> Array:
    """Return (batch, 1) as (batch,), and what TensorFlow knows no rank of (class weights) too."""
    if getattr(x.shape, "rank", 1) is None:
        return ops.reshape(x, (-1,))
    return ops.squeeze(x, axis=1) if len(x.shape) == 2 and x.shape[1] == 1 else x

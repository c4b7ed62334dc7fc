"""Baselines to compare with, in log space: KD and DKD."""

from __future__ import annotations

from typing import Any

from mcld_core.arguments import (
    Batch,
    check_reduction,
    keep_rows,
    prepare,
    reduce_rows,
    rows_at_once,
)
from mcld_core.backends import Backend, backend_for
from mcld_core.config import check_number
from mcld_core.formulas.contrast import RowsAndGradient, bounded, decoupled_kl_rows, plain_kl_rows
from mcld_core.schedule import number
from mcld_core.typing import Array, Float, Labels, Logits, Reduction, Scalar


def kd_loss(
    student_logits: Logits,
    teacher_logits: Logits,
    *,
    temperature: Scalar = 4.0,
    sample_weight: Float[Array, "batch"] | None = None,  # noqa: F821
    where: Array | None = None,
    reduction: Reduction = "mean",
) -> Any:
    """Distil softened probabilities: ``T² KL(softmax(t/T) ‖ softmax(s/T))``.

    The factor T² keeps the size of the gradient independent of the temperature.

    Args:
        student_logits: (batch, classes), any float dtype.
        teacher_logits: (batch, classes); never receives a gradient.
        temperature: T > 0.
        sample_weight: (batch,) ≥ 0.
        where: (batch,) bool, True = keep.
        reduction: as in `mcld_core.mcld_loss`.

    Returns:
        The loss, float32 (float64 for float64 logits).

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> float(kd_loss(np.eye(3), np.eye(3)))
        0.0

    References:
        G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    check_number("kd_loss", "temperature", temperature, above=0.0)
    check_reduction("kd_loss", reduction)
    ops = backend_for("kd_loss", student_logits, teacher_logits, sample_weight, where)
    batch = prepare(
        "kd_loss",
        ops,
        student_logits,
        teacher_logits,
        None,
        sample_weight,
        where,
        needs_labels=False,
    )

    def rows(student: Array, teacher: Array, _: Array, t: Scalar, *, factor: Any) -> Any:
        return plain_kl_rows(ops, student, teacher, t, factor)

    return _reduced(ops, batch, rows, (temperature,), reduction)


def dkd_loss(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    alpha: Scalar = 1.0,
    beta: Scalar = 8.0,
    temperature: Scalar = 4.0,
    ignore_index: int = -100,
    sample_weight: Float[Array, "batch"] | None = None,  # noqa: F821
    where: Array | None = None,
    reduction: Reduction = "mean",
) -> Any:
    """Decoupled distillation: ``T² [ α KL(b^t ‖ b^s) + β KL(r^t ‖ r^s) ]``.

    b is the target's probability against the rest, r the softmax over the rest. With soft labels
    the target is their arg max; without labels, the teacher's.

    Args:
        student_logits: (batch, classes), any float dtype.
        teacher_logits: (batch, classes); never receives a gradient.
        labels: (batch,) int, (batch, classes) soft, or None.
        alpha: weight of the target part, ≥ 0.
        beta: weight of the non-target part, ≥ 0.
        temperature: T > 0.
        ignore_index: rows with this int label are dropped.
        sample_weight: (batch,) ≥ 0.
        where: (batch,) bool, True = keep.
        reduction: as in `mcld_core.mcld_loss`.

    Returns:
        The loss, float32 (float64 for float64 logits).

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> float(dkd_loss(np.eye(3), np.eye(3), np.arange(3)))
        0.0

    References:
        B. Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.
    """
    check_number("dkd_loss", "temperature", temperature, above=0.0)
    check_reduction("dkd_loss", reduction)
    for argument, value in (("alpha", alpha), ("beta", beta)):
        check_number("dkd_loss", argument, value, minimum=0.0)
    ops = backend_for("dkd_loss", student_logits, teacher_logits, labels, sample_weight, where)
    batch = prepare(
        "dkd_loss", ops, student_logits, teacher_logits, labels, sample_weight, where, ignore_index
    )

    def rows(
        student: Array,
        teacher: Array,
        labels: Array,
        t: Scalar,
        a: Scalar,
        b: Scalar,
        *,
        factor: Scalar | None,
    ) -> RowsAndGradient:
        target = labels if labels.ndim == 1 else ops.argmax(labels, 1)
        return decoupled_kl_rows(ops, student, teacher, target, t, a, b, factor)

    return _reduced(ops, batch, rows, (temperature, alpha, beta), reduction)


def _reduced(
    ops: Backend, batch: Batch, rows_of: Any, numbers: tuple[Scalar, ...], reduction: Reduction
) -> Any:
    """Evaluate a loss of single rows and reduce it."""
    like, dtype = batch.student, batch.dtype
    shared = tuple(
        n if isinstance(n, (int, float)) else number(ops, n, dtype, like) for n in numbers
    )
    labels = ops.arange(ops.size(like, 0), like) if batch.labels is None else batch.labels
    rows = (batch.student, batch.teacher, labels)

    def block(rows: tuple[Array, ...], shared: tuple[Scalar, ...], gradient: bool) -> Any:
        student, teacher, labels, *kept = rows
        student = bounded(ops, keep_rows(ops, ops.astype(student, dtype), *kept))
        teacher = keep_rows(ops, ops.astype(teacher, dtype), *kept)
        if student.shape[1] == 1:
            value, slope = 0.0 * student[:, 0], 0.0 * student
        else:
            factor = 1.0 if gradient else None
            value, slope = rows_of(student, teacher, labels, *shared, factor=factor)
        return (value, slope) if gradient else (value,)

    trained = any(ops.is_trained(n) for n in shared)
    (total,) = ops.map_rows(
        block,
        lambda shared: shared,
        rows if batch.kept is None else (*rows, batch.kept),
        shared,
        None if trained else rows_at_once(ops, "auto", 1, like.shape[1]),
    )
    return reduce_rows(ops, total, batch, reduction)

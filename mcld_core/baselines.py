"""Baselines to compare with, in log space: KD and DKD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcld_core.arguments import Arguments, Batch, is_number, keep_rows, reduce_rows
from mcld_core.formulas.divergence import decoupled_divergence, kl_divergence, raised
from mcld_core.losses import rows_of_a_block
from mcld_core.typing import Array, Float, Labels, Logits, Reduction, Scalar


def kd_loss(
    student_logits: Logits,
    teacher_logits: Logits,
    *,
    temperature: Scalar = 4.0,
    sample_weight: Float[Array, " batch"] | None = None,
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
    arguments = Arguments("kd_loss", student_logits, teacher_logits, sample_weight, where)
    arguments.number("temperature", temperature, above=0.0)
    arguments.reduction(reduction)
    batch = arguments.batch(
        student_logits,
        teacher_logits,
        None,
        sample_weight=sample_weight,
        where=where,
        ignore_index=None,
    )

    def values(student: Array, teacher: Array, _: None, t: Scalar) -> Array:
        return kl_divergence(arguments.ops, student, teacher, t)

    return _reduced(arguments, batch, values, (temperature,), reduction)


def dkd_loss(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    alpha: Scalar = 1.0,
    beta: Scalar = 8.0,
    temperature: Scalar = 4.0,
    ignore_index: int = -100,
    sample_weight: Float[Array, " batch"] | None = None,
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
    arguments = Arguments("dkd_loss", student_logits, teacher_logits, labels, sample_weight, where)
    arguments.number("temperature", temperature, above=0.0)
    arguments.number("alpha", alpha, minimum=0.0)
    arguments.number("beta", beta, minimum=0.0)
    arguments.reduction(reduction)
    batch = arguments.batch(
        student_logits,
        teacher_logits,
        labels,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
    )
    ops = arguments.ops

    def values(
        student: Array, teacher: Array, labels: Array, t: Scalar, a: Scalar, b: Scalar
    ) -> Array:
        target = labels if labels.ndim == 1 else ops.argmax(labels, 1)
        return decoupled_divergence(ops, student, teacher, target, t, a, b)

    return _reduced(arguments, batch, values, (temperature, alpha, beta), reduction)


def _reduced(
    arguments: Arguments,
    batch: Batch,
    values_of: Callable[..., Array],
    numbers: tuple[Scalar, ...],
    reduction: Reduction,
) -> Any:
    """Evaluate ``values_of(student, teacher, labels, *numbers)``, a value a row, and reduce it."""
    ops, like, dtype = arguments.ops, batch.student, batch.dtype
    given = {
        "student": batch.student,
        "teacher": batch.teacher,
        "labels": batch.labels,
        "kept": batch.kept,
    }
    names = [name for name, x in given.items() if x is not None]

    def values(rows: tuple[Array, ...], numbers: tuple[Scalar, ...]) -> tuple[Array]:
        block = dict(zip(names, rows, strict=True))
        student, teacher = (
            keep_rows(ops, ops.astype(block[side], dtype), block.get("kept"))
            for side in ("student", "teacher")
        )
        student = raised(ops, student)
        if student.shape[1] == 1:
            return (0.0 * student[:, 0],)
        return (values_of(student, teacher, block.get("labels"), *numbers),)

    numbers = tuple(n if is_number(n) else ops.astype(ops.asarray(n, like), dtype) for n in numbers)
    trained = any(ops.is_trained(n) for n in numbers)
    block_rows = None if trained else rows_of_a_block(ops, "auto", 1, like.shape[1])
    rows = tuple(x for x in given.values() if x is not None)
    (total,) = ops.by_block(values, lambda numbers: numbers, rows, numbers, block_rows)
    return reduce_rows(ops, total, batch, reduction)

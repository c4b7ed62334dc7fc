"""DIST: the correlation of rows and of columns of probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcld_core.arguments import Arguments
from mcld_core.backends import Backend
from mcld_core.baselines.evaluation import reduced
from mcld_core.formulas.similarity import divide
from mcld_core.typing import Array, Bool, Float, Logits, Reduction, Scalar


def dist_loss(
    student_logits: Logits,
    teacher_logits: Logits,
    *,
    beta: Scalar = 1.0,
    gamma: Scalar = 1.0,
    temperature: Scalar = 1.0,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Array | None = None,
    reduction: Reduction = "mean",
) -> Any:
    """Correlation of relations: ``T² [ β (1 - ρ(q_i, p_i)) + γ (1 - mean_c ρ(q_:c, p_:c)) ]``.

    ρ is Pearson's correlation of the student's and the teacher's softmax at T: of each row, and of
    each class column over the kept rows of the batch. The column part does not know the sample
    weights and is a part of each row's value. A row or column that is constant up to rounding has
    ρ = 0 and no gradient. Keys of other ranks play no part.

    Args:
        student_logits: (batch, classes), any float dtype.
        teacher_logits: (batch, classes); never receives a gradient.
        beta: weight of the rows, ≥ 0.
        gamma: weight of the columns, ≥ 0.
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
        >>> abs(round(float(dist_loss(np.eye(3), np.eye(3))), 6))
        0.0

    References:
        T. Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022.
    """
    arguments = Arguments("dist_loss", student_logits, teacher_logits, sample_weight, where)
    for name, weight in (("beta", beta), ("gamma", gamma)):
        arguments.number(name, weight, minimum=0.0)
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
    ops = arguments.ops

    def values(student: Array, teacher: Array, _: None, *numbers: Scalar) -> Array:
        weight_rows, weight_columns, t = numbers
        q, p = (ops.softmax(divide(z, t), 1) for z in (student, teacher))
        of_rows = correlation(ops, q, p, None)
        columns = (ops.matrix_transpose(x) for x in (q, p))
        of_columns = ops.sum(correlation(ops, *columns, batch.kept), 0) / float(student.shape[1])
        return t * t * (weight_rows * (1.0 - of_rows) + weight_columns * (1.0 - of_columns))

    numbers = (beta, gamma, temperature)
    return reduced(arguments, batch, values, numbers, reduction, by_block=False)


def correlation(
    ops: Backend,
    x: Float[Array, "rows entries"],
    y: Float[Array, "rows entries"],
    kept: Bool[Array, " entries"] | None,
) -> Float[Array, " rows"]:
    """Return Pearson's correlation of each row of x with that of y, over the kept entries."""
    x, y = (_unit(ops, z, kept) for z in (x, y))
    return ops.sum(x * y, 1)


def _unit(ops: Backend, z: Array, kept: Array | None) -> Array:
    """Return rows centred and of unit length; 0 where a row is constant up to rounding."""
    weight = 0.0 * z[:1] + 1.0 if kept is None else ops.astype(kept, ops.dtype(z))[None, :]
    count = ops.maximum(ops.sum(weight, 1, keepdims=True), 1.0)
    centred = weight * (z - ops.sum(weight * z, 1, keepdims=True) / count)
    squared = ops.sum(centred * centred, 1, keepdims=True)
    floor = (32.0 * float(np.finfo(ops.dtype(z)).eps)) ** 2
    constant = squared <= floor * ops.sum(weight * z * z, 1, keepdims=True)
    return ops.where(constant, 0.0, centred / ops.sqrt(ops.where(constant, 1.0, squared)))

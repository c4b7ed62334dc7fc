"""DIST: the correlation of rows and of columns of probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcld_core.backends import Backend
from mcld_core.baselines.evaluation import evaluate
from mcld_core.formulas.divergence import MASKED, divide, raised
from mcld_core.formulas.objective import Block
from mcld_core.typing import Array, Bool, Float, Logits, Reduction, Scalar, Tensor


def dist_loss(
    student_logits: list[Any] | Float[Tensor, "batch classes"],
    teacher_logits: Logits,
    *,
    beta: Scalar = 1.0,
    gamma: Scalar = 1.0,
    temperature: Scalar = 1.0,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Array | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Correlation of relations: ``T² [ β (1 - ρ(q_i, p_i)) + γ (1 - mean_c ρ(q_:c, p_:c)) ]``.

    ρ is Pearson's correlation of the student's and the teacher's softmax at T: of each row, and of
    each class column over the kept rows of the batch. The column part does not know the sample
    weights and is a part of each row's value. A row or column that is constant up to rounding has
    ρ = 0 and no gradient. Keys of other ranks play no part.

    Args:
        student_logits, teacher_logits: as in `mcld_core.mcld_loss`.
        beta: weight of the rows, ≥ 0.
        gamma: weight of the columns, ≥ 0.
        temperature: T > 0.
        sample_weight, where, reduction: as in `mcld_core.mcld_loss`; so are result and errors.

    Example:
        >>> import numpy as np
        >>> abs(round(float(dist_loss(np.eye(3), np.eye(3))), 6))
        0.0

    References:
        T. Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022.
    """

    def values(
        ops: Backend, block: Block, beta: Scalar, gamma: Scalar, temperature: Scalar
    ) -> Array:
        student, teacher = block.student, raised(ops, block.teacher)
        if student.shape[0] == 0:  # a column has no maximum
            return 0.0 * student[:, 0]
        log_q, log_p = (ops.log_softmax(divide(z, temperature), 1) for z in (student, teacher))
        of_rows = correlation(ops, log_q, log_p, 1)
        of_columns = correlation(ops, log_q, log_p, 0, block.kept)
        of_columns = ops.sum(of_columns, 0) / float(student.shape[1])
        value = beta * (1.0 - of_rows) + gamma * (1.0 - of_columns)
        return temperature * temperature * value

    rows = (student_logits, teacher_logits, None, sample_weight, where)
    numbers = {"beta": beta, "gamma": gamma, "temperature": temperature}
    return evaluate("dist_loss", rows, values, reduction, in_blocks=False, **numbers)


def correlation(
    ops: Backend,
    log_x: Float[Array, "rows columns"],
    log_y: Float[Array, "rows columns"],
    axis: int,
    kept: Bool[Array, " rows"] | None = None,
) -> Float[Array, " lines"]:
    """Return Pearson's correlation of exp(log_x) with exp(log_y) along an axis, of the kept rows.

    It does not depend on the scale, so the largest of a line is 1 and no square underflows.
    """
    weight = None if kept is None else ops.astype(kept, ops.dtype(log_x))[:, None]
    (x, x_squared), (y, y_squared) = (_centred(ops, z, axis, weight) for z in (log_x, log_y))
    constant = (x_squared <= 0) | (y_squared <= 0)
    norms = ops.sqrt(ops.where(constant, 1.0, x_squared * y_squared))
    return ops.where(constant, 0.0, ops.sum(x * y, axis) / norms)


def _centred(ops: Backend, z: Array, axis: int, weight: Array | None) -> tuple[Array, Array]:
    """Return exp(z), scaled and centred, and its squared norm; 0 of what rounding alone varies."""
    z = z if weight is None else ops.where(weight > 0, z, MASKED)
    x = ops.exp(z - ops.stop_gradient(ops.max(z, axis, keepdims=True)))
    count = ops.sum(0.0 * x + 1.0, axis, keepdims=True)
    if weight is not None:
        x, count = weight * x, ops.maximum(ops.sum(weight, 0, keepdims=True), 1.0)
    centred = x - ops.sum(x, axis, keepdims=True) / count
    centred = centred if weight is None else weight * centred
    squared = ops.sum(centred * centred, axis)
    floor = (32.0 * float(np.finfo(ops.dtype(z)).eps)) ** 2
    return centred, ops.where(squared <= floor * ops.sum(x * x, axis), 0.0, squared)

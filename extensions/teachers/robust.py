"""Robust contrast: a bounded loss, and outliers weighed down."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcld_core.arguments import Arguments, one_hot, reduce_rows, wide_dtype
from mcld_core.extensions.teachers.arguments import TeacherArguments, clip01
from mcld_core.typing import Array, Bool, Float, Labels, Reduction, Scalar, Tensor

ROUNDING = 1e-3
"""How far below 0 a loss may come out by rounding."""


def bounded_loss(
    rows: list[Any] | Float[Tensor, " batch"],
    q: Scalar,
    *,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Bool[Array, " batch"] | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Bound the loss of each row: ``(1 − exp(−q L_i)) / q``, at most 1/q; q → 0 is L itself.

    Its derivative is ``exp(−q L_i)`` times that of L: the higher the loss of a row, the less the
    row pulls. On a cross-entropy this is the generalised cross-entropy ``(1 − p^q) / q``. It works
    without labels that are better than the teacher. But a loss that starts high learns slowly:
    let q rise from 0 during the training.

    Args:
        rows: (batch,) losses ≥ 0: any loss of the library with ``reduction="none"`` and *without*
            ``sample_weight``; pass the weights here, for they belong outside the bound. A loss
            below 0 is an error where it can be read; elsewhere it comes out unchanged.
        q: ≥ 0, a number or a zero-dimensional array.
        sample_weight, where, reduction: as in `mcld_core.mcld_loss`; so are the errors.

    Returns:
        The reduced loss, float32 (float64 for float64 rows); it has the gradient.

    Example:
        >>> import numpy as np
        >>> bounded_loss(np.array([0.0, 1.0, 50.0]), 0.5, reduction="none").round(4)
        array([0.    , 0.7869, 2.    ])

    References:
        Z. Zhang, M. Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks
        with Noisy Labels", NeurIPS 2018.
    """
    arguments = Arguments("bounded_loss", rows, sample_weight, where, q)
    arguments.reduction(reduction)
    ops = arguments.ops
    losses: Any = arguments.array("rows", rows, arguments.like)
    if len(losses.shape) != 1 or "float" not in ops.dtype(losses):
        needs = "rows needs shape (batch,) and a float dtype, a loss with reduction='none'"
        raise arguments.wrong(needs, f"shape {tuple(losses.shape)}, {ops.dtype(losses)}")
    dtype = wide_dtype(ops.dtype(losses))
    kept = arguments.mask("where", where, losses, "rows")
    weight = arguments.weight(sample_weight, kept, losses, dtype, "rows")
    losses = ops.astype(losses, dtype)
    losses = losses if kept is None else ops.where(kept, losses, 0.0)
    values = ops.host_values(losses)
    if values is not None and (values < -ROUNDING).any():
        row = int(np.argmax(values < -ROUNDING))
        raise ValueError(
            f"bounded_loss: rows needs losses ≥ 0; got {values[row]} in row {row}. Check its sign. "
            "(With category_contrast='columns' a row may be below 0: bound the other terms.)"
        )
    q = ops.stop_gradient(arguments.scalar("q", q, losses, dtype))
    bounded = (q > 0) & (losses > 0)  # L itself at q = 0, and below 0, where rounding may bring it
    x = ops.where(bounded, q * ops.where(q > 0, losses, 0.0), 0.0)
    losses = ops.where(bounded, -ops.expm1(-x) / ops.where(q > 0, q, 1.0), losses)
    return reduce_rows(ops, losses, weight, reduction)


def outlier_weights(
    teacher_logits: list[Any] | Float[Tensor, "batch classes"],
    labels: Labels,
    *,
    cutoff: Scalar = 0.5,
    where: Bool[Array, " batch"] | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Return how well each teacher row resembles the others of its label, 0 … 1.

    ``w_i = min(1, cos(p_i, m_i) / cutoff)``, with p = softmax(t) and m_i the mean of p over the
    other rows of the same label (soft labels: weighted by their affinity). A row that looks like
    its class has exactly 1, and so has the only row of a label. All statistics are those of the
    teacher's rows given: a batch will do, the whole training set at once is better. It finds
    single wrong rows, but not a teacher that is wrong in a whole class.

    Args:
        teacher_logits, labels: as in `reliability_weights`.
        cutoff: the cosine below which a row is weighed down, 0 < cutoff ≤ 1.
        where: (batch,) bool, True = keep.
        ignore_index: rows with this int label are left out.

    Returns:
        (batch,), to pass as ``sample_weight`` or as the ``reliability`` of `repair_rows`; float32
        (float64 for float64 logits), without a gradient; 0 in dropped rows.

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> teacher = 9 * np.eye(2)[[0, 0, 0, 1]]
        >>> outlier_weights(teacher, np.array([0, 0, 0, 0])).round(2)
        array([1., 1., 1., 0.])
    """
    arguments = TeacherArguments("outlier_weights", teacher_logits, labels, where, cutoff)
    ops = arguments.ops
    rows = arguments.labelled_teacher(teacher_logits, labels, where, ignore_index)
    dtype = ops.dtype(rows.logits)
    cutoff = arguments.scalar("cutoff", cutoff, rows.logits, dtype, above=0.0, maximum=1.0)
    kept = rows.weight[:, None]
    p = kept * ops.softmax(rows.logits, 1)
    label = kept * one_hot(ops, rows.labels, rows.logits.shape[1], dtype)
    sums = ops.matmul(ops.matrix_transpose(label), p)
    own = ops.sum(label * label, 1, keepdims=True)  # the affinity of a row with itself
    others = ops.maximum(ops.matmul(label, sums) - own * p, 0.0)
    mass = ops.matmul(label, ops.sum(label, 0)[:, None]) - own
    length = ops.sqrt(ops.sum(p * p, 1) * ops.sum(others * others, 1))
    alone = (mass[:, 0] <= 1e-6) | (length <= 0)
    cosine = ops.sum(p * others, 1) / ops.where(alone, 1.0, length)
    weights = rows.weight * ops.where(alone, 1.0, clip01(ops, cosine / cutoff))
    return ops.stop_gradient(weights)

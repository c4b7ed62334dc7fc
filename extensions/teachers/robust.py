"""Robust contrast: a bounded loss, outliers weighed down, the worst rows trimmed."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcld_core.arguments import Batch, check_device, check_reduction, check_rows, reduce_rows
from mcld_core.backends import Backend, backend_for
from mcld_core.extensions.teachers.reliability import _check_above_zero
from mcld_core.extensions.teachers.rows import (
    clip01,
    like_of,
    one_number,
    row_weights,
    teacher_rows,
)
from mcld_core.formulas.contrast import one_hot
from mcld_core.typing import Array, Bool, Float, Labels, Logits, Reduction, Scalar

SERIES = 12
"""Terms of the series of (1 − e^−x)/x for |x| < 1/4: the rest is below 1e-16."""


def bounded(
    rows: Float[Array, "batch"],  # noqa: F821
    q: Scalar,
    *,
    sample_weight: Float[Array, "batch"] | None = None,  # noqa: F821
    where: Bool[Array, "batch"] | None = None,  # noqa: F821
    reduction: Reduction = "mean",
) -> Any:
    """Bound the loss of each row: ``(1 − exp(−q L_i)) / q``, at most 1/q; q → 0 is L itself.

    Its derivative is ``exp(−q L_i)`` times that of L: the higher the loss of a row, the less it
    pulls. On a cross-entropy this is the generalised cross-entropy ``(1 − p^q) / q``. It needs no
    labels that are better than the teacher, but a loss that starts high learns slowly: raise q
    from 0 during the training (`anneal`) rather than start with it.

    Args:
        rows: (batch,) losses ≥ 0: any loss of the library with ``reduction="none"`` and *without*
            ``sample_weight``, which belongs outside the bound, that is here.
        q: ≥ 0, a number or a zero-dimensional array.
        sample_weight, where, reduction: as in `mcld_core.mcld_loss`.

    Returns:
        The reduced loss, float32 (float64 for float64 rows); it has the gradient.

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> bounded(np.array([0.0, 1.0, 50.0]), 0.5, reduction="none").round(4)
        array([0.    , 0.7869, 2.    ])

    References:
        Z. Zhang, M. Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks
        with Noisy Labels", NeurIPS 2018.
    """
    function = "bounded"
    check_reduction(function, reduction)
    if isinstance(q, (int, float)) and not q >= 0:
        raise ValueError(f"{function}: q needs a number ≥ 0; got {q!r}")
    ops, rows, weight = _loss_rows(function, rows, sample_weight, where, q)
    q = one_number(function, ops, "q", q, rows, ops.dtype(rows))
    return _reduce(ops, _bound(ops, rows, q), weight, reduction)


def trimmed(
    rows: Float[Array, "batch"],  # noqa: F821
    fraction: Scalar,
    *,
    sample_weight: Float[Array, "batch"] | None = None,  # noqa: F821
    where: Bool[Array, "batch"] | None = None,  # noqa: F821
    reduction: Reduction = "mean",
) -> Any:
    """Leave out the rows of the highest loss: of n kept rows, the ``floor(fraction n)`` highest.

    Early in a training the rows on which teacher and labels disagree are those of high loss.
    Rows as high as the highest one that stays, stay too.

    Args:
        rows: (batch,) losses with ``reduction="none"``.
        fraction: 0 … 1, a number or a zero-dimensional array.
        sample_weight, where, reduction: as in `mcld_core.mcld_loss`; ``"mean"`` is over the rows
            that stay.

    Returns:
        The reduced loss, float32 (float64 for float64 rows); it has the gradient.

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> float(trimmed(np.array([1.0, 9.0, 2.0, 3.0]), 0.25))
        2.0

    References:
        B. Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy
        Labels", NeurIPS 2018 (small-loss rows).
    """
    function = "trimmed"
    check_reduction(function, reduction)
    if isinstance(fraction, (int, float)) and not 0 <= fraction <= 1:
        raise ValueError(f"{function}: fraction needs a number in 0 … 1; got {fraction!r}")
    ops, rows, weight = _loss_rows(function, rows, sample_weight, where, fraction)
    dtype = ops.dtype(rows)
    fraction = one_number(function, ops, "fraction", fraction, rows, dtype)
    kept = weight > 0
    ordered = ops.sort(ops.where(kept, ops.stop_gradient(rows), np.inf))
    count = ops.sum(ops.astype(kept, dtype), None)
    stay = ops.astype(count, "int32") - ops.astype(fraction * count + 1e-4, "int32")
    place = ops.arange(ops.size(rows, 0), rows)
    is_last = ops.astype(place == stay - 1, dtype)
    threshold = ops.sum(ops.where(is_last > 0, ordered, 0.0), None)
    stays = kept & ~(ops.stop_gradient(rows) > threshold) & (stay > 0)  # a NaN is not hidden
    rows = ops.where(stays, rows, 0.0)
    return _reduce(ops, rows, weight * ops.astype(stays, dtype), reduction)


def outlier_weights(
    teacher_logits: Logits,
    labels: Labels,
    *,
    cutoff: Scalar = 0.5,
    where: Bool[Array, "batch"] | None = None,  # noqa: F821
    ignore_index: int = -100,
) -> Any:
    """Return how well each teacher row resembles the others of its label, 0 … 1.

    With p = softmax(t) and the affinity A of the labels, m_i the mean of the p_j of the same label
    without row i itself: ``w_i = min(1, cos(p_i, m_i) / cutoff)``. It rises with the similarity;
    rows that look like their class have exactly 1, and so has a row without another of its label.
    The statistics are the teacher's own: it works in a batch, and better on the whole training
    set at once. It finds single wrong rows, not a teacher that is wrong in a whole class.

    Args:
        teacher_logits: (batch, classes), any float dtype.
        labels: (batch,) int, or (batch, classes) soft.
        cutoff: the cosine below which a row is weighed down, 0 < cutoff ≤ 1.
        where: (batch,) bool, True = keep.
        ignore_index: rows with this int label are left out.

    Returns:
        (batch,) for ``sample_weight``, or as ``reliability`` of `repair_rows`; float32 (float64
        for float64 logits), without a gradient; 0 in dropped rows.

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> teacher = 9 * np.eye(2)[[0, 0, 0, 1]]
        >>> outlier_weights(teacher, np.array([0, 0, 0, 0])).round(2)
        array([1., 1., 1., 0.])
    """
    function = "outlier_weights"
    _check_above_zero(function, "cutoff", cutoff)
    ops = backend_for(function, teacher_logits, labels, where, cutoff)
    like = like_of(ops, teacher_logits, labels, where)
    rows = teacher_rows(
        function, ops, teacher_logits, labels, where, like=like, ignore_index=ignore_index
    )
    cutoff = one_number(function, ops, "cutoff", cutoff, rows.logits, rows.dtype)
    kept = ops.astype(rows.kept, rows.dtype)[:, None]
    p = kept * ops.softmax(rows.logits, 1)
    label = kept * one_hot(ops, rows.labels, rows.logits.shape[1], rows.dtype)
    sums = ops.matmul(ops.matrix_transpose(label), p)
    own = ops.sum(label * label, 1, keepdims=True)  # the affinity of a row with itself
    others = ops.maximum(ops.matmul(label, sums) - own * p, 0.0)
    mass = ops.matmul(label, ops.sum(label, 0)[:, None]) - own
    length = ops.sqrt(ops.sum(p * p, 1) * ops.sum(others * others, 1))
    alone = (mass[:, 0] <= 1e-6) | (length <= 0)
    cosine = ops.sum(p * others, 1) / ops.where(alone, 1.0, length)
    return kept[:, 0] * ops.where(alone, 1.0, clip01(ops, cosine / cutoff))


def _bound(ops: Backend, rows: Array, q: Scalar) -> Array:
    """Return ``(1 − e^−qL) / q``; near 0, where the difference cancels, L times its series."""
    if isinstance(q, (int, float)):
        if q == 0:
            return rows
        x, divisor = q * rows, q
    else:
        x = q * ops.where(q > 0, rows, 0.0)  # at q = 0 an infinite loss too is itself
        divisor = ops.where(q > 0, q, 1.0)
    near = ops.abs(x) < 0.25
    close = ops.where(near, x, 0.0)
    series = 0.0 * close + 1.0
    for n in range(SERIES, 1, -1):
        series = 1.0 - close / float(n) * series
    far = (1.0 - ops.exp(-ops.where(near, 1.0, x))) / divisor
    return ops.where(near, rows * series, far)


def _loss_rows(
    function: str, rows: Any, sample_weight: Any, where: Any, number: Any
) -> tuple[Backend, Array, Array]:
    """Return the backend, the rows (0 where dropped), in the dtype computed in, and weights."""
    ops = backend_for(function, rows, sample_weight, where, number)
    rows = ops.asarray(rows, like_of(ops, rows, sample_weight, where))
    if len(rows.shape) != 1 or "float" not in ops.dtype(rows):
        raise ValueError(
            f"{function}: rows needs shape (batch,) and a float dtype, a loss with "
            f"reduction='none'; got shape {tuple(rows.shape)}, {ops.dtype(rows)}"
        )
    dtype = "float64" if ops.dtype(rows) == "float64" else "float32"
    rows = ops.astype(rows, dtype)
    kept = ops.arange(ops.size(rows, 0), rows) >= 0
    if where is not None:
        kept = ops.asarray(where, rows)
        check_rows(function, "where", kept, rows.shape[0])
        if ops.dtype(kept) != "bool":
            raise TypeError(
                f"{function}: where needs dtype bool (True = keep); got {ops.dtype(kept)}"
            )
        check_device(function, ops, "where", kept, rows)
        rows = ops.where(kept, rows, 0.0)
    weight = ops.astype(kept, dtype)
    if sample_weight is not None:
        check_rows(function, "sample_weight", ops.asarray(sample_weight, rows), rows.shape[0])
        weight = row_weights(function, ops, "sample_weight", sample_weight, kept, rows, dtype)
    return ops, rows, weight


def _reduce(ops: Backend, rows: Array, weight: Array, reduction: Reduction) -> Array:
    return reduce_rows(ops, rows, Batch(rows, rows, ops.dtype(rows), None, None, weight), reduction)

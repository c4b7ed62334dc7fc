"""The contrasts by a similarity matrix, and the one within class columns.

Each function returns one value a row. A key that does not count has ``S = MASKED``, a finite
number so far below every logit that its exponential is exactly 0 and so small that nothing
overflows.
"""

from __future__ import annotations

from mcld_core.backends import Backend
from mcld_core.formulas.divergence import MASKED
from mcld_core.formulas.similarity import divide
from mcld_core.typing import Array, Bool, Float, Int, Scalar

NEGLIGIBLE = 1e-30
"""A sum of label weights up to it is none: float32 has no digits there to divide by."""


def affinity(
    ops: Backend,
    labels: Int[Array, " block"] | Float[Array, "block classes"],
    key_labels: Int[Array, " keys"] | Float[Array, "keys classes"],
    classes: int,
    dtype: str,
) -> Bool[Array, "block keys"] | Float[Array, "block keys"]:
    """Return A: which anchor and key share a label (bool), or how far soft labels agree (0 to 1).

    Keys that do not count must come with label -2, or with a soft label of zeros.
    """
    if labels.ndim == 1 and key_labels.ndim == 1:
        return labels[:, None] == key_labels[None, :]
    labels, key_labels = (one_hot(ops, y, classes, dtype) for y in (labels, key_labels))
    inner = ops.matmul(labels, ops.matrix_transpose(key_labels))
    return ops.minimum(ops.maximum(inner, 0.0), 1.0)


def one_hot(ops: Backend, labels: Array, classes: int, dtype: str) -> Float[Array, "rows classes"]:
    """Return int labels as one-hot rows (zeros where out of range); soft labels unchanged."""
    if labels.ndim == 2:
        return labels
    return ops.astype(ops.arange(classes, labels)[None, :] == labels[:, None], dtype)


def instance_contrast(
    ops: Backend,
    similarity: Float[Array, "block keys"],
    false_negatives: Bool[Array, "block keys"] | Float[Array, "block keys"] | None,
    own: Int[Array, " block"],
) -> Float[Array, " block"]:
    """InfoNCE with the own key as the positive: ``-S_own + log( exp S_own + Σ (1 - A) exp S )``.

    The sum is over the other keys. ``false_negatives`` is A, or None where the target mask is
    off (A = 0). Written as ``softplus(log Σ - S_own)``, whose gradient keeps its digits where
    the own key is all but certain.
    """
    own = own[:, None]
    at_own = ops.take_along_axis(similarity, own, 1)
    if false_negatives is None:
        negatives = ops.put_along_axis(similarity, own, 0.0 * at_own + MASKED)
    else:
        one = ops.astype(0 * own + 1, ops.dtype(false_negatives))
        repelled = ops.put_along_axis(false_negatives, own, one)
        negatives = _without(ops, similarity, repelled)
    return ops.softplus(ops.logsumexp(negatives, 1) - at_own[:, 0])


def category_contrast(
    ops: Backend,
    similarity: Float[Array, "block keys"],
    same_label: Bool[Array, "block keys"] | Float[Array, "block keys"],
) -> Float[Array, " block"]:
    """One anchor against all keys: ``log Σ_k exp S_ik - Σ_j w_ij S_ij``, ``w = A / Σ A``.

    0, with a zero gradient, where no key has the anchor's label. With hard labels the keys are
    split at the label, ``log Σ_k exp S = log Σ_pos exp S + softplus(log Σ_neg - log Σ_pos)``, so
    that a row with one certain positive keeps the digits of its gradient.
    """
    total = ops.sum(ops.astype(same_label, ops.dtype(similarity)), 1)
    has_positive = total > NEGLIGIBLE
    total = ops.where(has_positive, total, 1.0)
    if ops.dtype(same_label) == "bool":
        positive = ops.logsumexp(ops.where(same_label, similarity, MASKED), 1)
        negative = ops.logsumexp(ops.where(same_label, MASKED, similarity), 1)
        mean = ops.sum(ops.where(same_label, similarity, 0.0), 1) / total
        value = positive - mean + ops.softplus(negative - positive)
    else:
        mean = ops.sum(same_label * similarity, 1) / total
        value = ops.logsumexp(similarity, 1) - mean
    return ops.where(has_positive, value, 0.0)


def column_contrast(
    ops: Backend,
    student: Float[Array, "batch classes"],
    teacher: Float[Array, "batch classes"],
    kept: Bool[Array, " batch"] | None,
    key_temperature: Scalar,
) -> Float[Array, " batch"]:
    """Category-wise contrast within a class column, across the kept rows of the batch.

    ``L_i = B' Σ_c ω_c q^t_ic log(q^t_ic / q^s_ic)``. Since ``ω_c = Σ_k p^t_kc / B'`` and
    ``q^t_ic = p^t_ic / Σ_k p^t_kc``, the product ``B' ω_c q^t_ic`` is ``p^t_ic`` itself.
    """
    log_p_student = ops.log_softmax(student, 1)
    log_p_teacher = ops.log_softmax(ops.maximum(divide(teacher, key_temperature), MASKED), 1)
    if kept is not None:
        log_p_student = ops.where(kept[:, None], log_p_student, MASKED)
        log_p_teacher = ops.where(kept[:, None], log_p_teacher, MASKED)
    p_teacher = ops.exp(log_p_teacher)
    log_q_student = ops.log_softmax(log_p_student, 0)
    log_q_teacher = ops.log_softmax(log_p_teacher, 0)
    return ops.sum(p_teacher * (log_q_teacher - log_q_student), 1)


def _without(ops: Backend, similarity: Array, false_negatives: Array) -> Array:
    """Return ``S + log(1 - A)``."""
    if ops.dtype(false_negatives) == "bool":
        return ops.where(false_negatives, MASKED, similarity)
    repel = 1.0 - false_negatives
    counts = repel > 1e-6
    return ops.where(counts, similarity + ops.log(ops.where(counts, repel, 1.0)), MASKED)

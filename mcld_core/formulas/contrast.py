"""The contrasts by a similarity matrix, and the one within class columns.

Each function returns one value a row. A key that does not count has ``S = MASKED``, a finite
number so far below every logit that its exponential is exactly 0 and so small that nothing
overflows.
"""

from __future__ import annotations

from typing import NamedTuple

from mcld_core.backends import Backend
from mcld_core.formulas.divergence import MASKED, Softmax, softened
from mcld_core.typing import Array, Bool, Float, Labels, Logits, Pairs, Places, Scalar, Values

NEGLIGIBLE = 1e-30
"""A sum of label weights up to it is none: float32 has no digits there to divide by."""


def affinity(ops: Backend, labels: Labels, key_labels: Labels, dtype: str) -> Pairs:
    """Return A: 1 where anchor and key share a label, else 0; for soft labels how far they agree.

    Keys that do not count must come with label -2, or with a soft label of zeros.
    """
    if labels.ndim == 1 and key_labels.ndim == 1:
        return ops.astype(labels[:, None] == key_labels[None, :], dtype)
    classes = (labels if labels.ndim == 2 else key_labels).shape[1]
    labels, key_labels = (one_hot(ops, y, classes, dtype) for y in (labels, key_labels))
    inner = ops.matmul(labels, ops.matrix_transpose(key_labels))
    return ops.minimum(ops.maximum(inner, 0.0), 1.0)


def one_hot(ops: Backend, labels: Array, classes: int, dtype: str) -> Float[Array, "rows classes"]:
    """Return int labels as one-hot rows (zeros where out of range); soft labels unchanged."""
    if labels.ndim == 2:
        return labels
    places = ops.astype(ops.arange(classes, labels), ops.dtype(labels))
    return ops.astype(places[None, :] == labels[:, None], dtype)


def log_sum_exp(ops: Backend, z: Pairs) -> Values:
    """Return ``log Σ exp z`` of each row; its derivative needs no second pass of exp."""
    peak = ops.stop_gradient(ops.max(z, 1, keepdims=True))
    return ops.log(ops.sum(ops.exp(z - peak), 1)) + peak[:, 0]


class Negatives(NamedTuple):
    """The negatives of the instance-wise term: what is left of the keys."""

    removed: Pairs
    """1 at the own key and, where the target mask is on, A."""
    log_sum: Values
    """``log Σ (1 - removed) exp S``."""

    @classmethod
    def of(
        cls, ops: Backend, similarity: Pairs, false_negatives: Pairs | None, own: Places, hard: bool
    ) -> Negatives:
        """Remove the own key of each row, and the false negatives (None: there are none)."""
        if false_negatives is None:
            false_negatives = ops.stop_gradient(0.0 * similarity)
        removed = ops.put_along_axis(false_negatives, own[:, None], 1.0)
        return cls(removed, log_sum_exp(ops, _without(ops, similarity, removed, hard)))


def instance_contrast(ops: Backend, similarity: Pairs, negatives: Negatives, own: Places) -> Values:
    """InfoNCE with the own key as the positive: ``-S_own + log( exp S_own + Σ (1 - A) exp S )``.

    The sum is over the other keys. Written as ``softplus(log Σ - S_own)``, whose gradient keeps
    its digits where the own key is all but certain.
    """
    at_own = ops.take_along_axis(similarity, own[:, None], 1)[:, 0]
    return -ops.log_sigmoid(at_own - negatives.log_sum)


def relational_contrast(ops: Backend, similarity: Pairs, teacher_similarity: Pairs) -> Values:
    """InfoNCE with graded positives: ``KL( softmax_j S^t_ij ‖ softmax_j S_ij )``.

    ``S^t`` is S of the teacher's row. Where both are one array, value and gradient are exactly 0.
    """
    targets = Softmax.of(ops, teacher_similarity)
    return targets.kl_to(ops, Softmax.of(ops, similarity))


def category_contrast(
    ops: Backend,
    similarity: Pairs,
    same_label: Pairs,
    hard: bool,
    negatives: Negatives | None = None,
) -> Values:
    """One anchor against all keys: ``log Σ_k exp S_ik - Σ_j w_ij S_ij``, ``w = A / Σ A``.

    0, with a zero gradient, where no key has the anchor's label. ``same_label`` is A. With hard
    labels, a row in which the negatives leave out one key alone, its positive, is written as
    ``softplus(log Σ_neg exp S - S_pos)``, whose gradient keeps its digits where the positive is
    all but certain. ``negatives`` must leave out all positives, as those of the instance-wise term
    do under the target mask.
    """
    count = ops.sum(same_label, 1)
    has_positive = count > NEGLIGIBLE
    mean = ops.sum(same_label * similarity, 1) / ops.where(has_positive, count, 1.0)
    value = log_sum_exp(ops, similarity) - mean
    if hard:
        if negatives is None:
            log_sum = log_sum_exp(ops, _without(ops, similarity, same_label, hard))
            negatives = Negatives(same_label, log_sum)
        alone = ops.sum(negatives.removed, 1) <= 1.0
        value = ops.where(alone, -ops.log_sigmoid(mean - negatives.log_sum), value)
    return ops.where(has_positive, value, 0.0)


def column_contrast(
    ops: Backend,
    student: Logits,
    teacher: Logits,
    kept: Bool[Array, " batch"] | None,
    key_temperature: Scalar,
) -> Values:
    """Category-wise contrast within a class column, across the kept rows of the batch.

    ``L_i = B' Σ_c ω_c q^t_ic log(q^t_ic / q^s_ic)``. Since ``ω_c = Σ_k p^t_kc / B'`` and
    ``q^t_ic = p^t_ic / Σ_k p^t_kc``, the product ``B' ω_c q^t_ic`` is ``p^t_ic`` itself.
    """
    log_p_student = ops.log_softmax(student, 1)
    log_p_teacher = ops.log_softmax(softened(ops, teacher, key_temperature), 1)
    if kept is not None:
        log_p_student = ops.where(kept[:, None], log_p_student, MASKED)
        log_p_teacher = ops.where(kept[:, None], log_p_teacher, MASKED)
    p_teacher = ops.exp(log_p_teacher)
    log_q_student = ops.log_softmax(log_p_student, 0)
    log_q_teacher = ops.log_softmax(log_p_teacher, 0)
    return ops.sum(p_teacher * (log_q_teacher - log_q_student), 1)


def _without(ops: Backend, similarity: Pairs, removed: Pairs, hard: bool) -> Pairs:
    """Return ``S + log(1 - removed)``; what is within 1e-6 of 1 is removed whole."""
    if hard:
        return ops.add_scaled(similarity, removed, MASKED)
    left = 1.0 - removed
    counts = left > 1e-6
    return similarity + ops.where(counts, ops.log(ops.where(counts, left, 1.0)), MASKED)

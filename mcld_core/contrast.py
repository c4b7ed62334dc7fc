"""The rows of each term: value and, on request, the gradient in closed form.

Every function here works on blocks of anchor rows and returns ``(rows, gradient)``. The value is
written so that a framework may differentiate it; with ``gradient=True`` the derivative is formed
by its formula as well (with respect to S for the contrasts, to the student's logits for the
rest), else it is None.

Masking: a key that does not count has ``S = MASKED``, a finite number so far below every logit
that its exponential is exactly 0 and so small that nothing overflows.
"""

from __future__ import annotations

from mcld_core.backends import Backend
from mcld_core.typing import Array, Bool, Float, Int, Scalar

MASKED = -1e30
"""The logit of what does not count; finite, so that a row of only such logits has no NaN."""

RowsAndGradient = tuple[Float[Array, "block"], Float[Array, "block n"] | None]  # noqa: F821


def affinity(
    ops: Backend,
    labels: Int[Array, "block"] | Float[Array, "block classes"],  # noqa: F821
    key_labels: Int[Array, "keys"] | Float[Array, "keys classes"],  # noqa: F821
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
    return labels if labels.ndim == 2 else ops.astype(_is_target(ops, labels, classes), dtype)


def instance_rows(
    ops: Backend,
    similarity: Float[Array, "block keys"],
    same_label: Array | None,
    own: Int[Array, "block"],  # noqa: F821
    gradient: bool,
) -> RowsAndGradient:
    """Instance-wise InfoNCE: ``-S_own + log(exp S_own + Σ_{j≠own} (1 - A_ij) exp S_ij)``.

    ``same_label`` is A, or None where the target mask is off (A taken as 0).
    """
    s_own = ops.take_along_axis(similarity, own[:, None], 1)
    logits = similarity
    if same_label is not None:
        columns = ops.arange(ops.size(similarity, 1), similarity)
        is_own = columns[None, :] == own[:, None]
        logits = _mask_same_label(ops, similarity, same_label, is_own)
    log_sum, probability = _logsumexp(ops, logits, gradient)
    rows = (log_sum - s_own)[:, 0]
    # d/dS is the softmax over own and negatives, less 1 at the own key
    return rows, None if probability is None else probability - _at(ops, own, similarity)


def category_rows(
    ops: Backend, similarity: Float[Array, "block keys"], same_label: Array, gradient: bool
) -> RowsAndGradient:
    """Category-wise 1-to-N contrast: ``log Σ_k exp S_ik - Σ_j w_ij S_ij``, ``w = A / Σ A``.

    0, with a zero gradient, where no key has the anchor's label.
    """
    log_sum, probability = _logsumexp(ops, similarity, gradient)
    weights = _as_float(ops, same_label, similarity)
    total = ops.sum(weights, 1, keepdims=True)
    has_positive = total > 0
    weights = weights / ops.where(has_positive, total, 1.0)
    positive = ops.sum(weights * similarity, 1, keepdims=True)
    rows = ops.where(has_positive, log_sum - positive, 0.0)[:, 0]
    if probability is None:
        return rows, None
    return rows, ops.where(has_positive, probability - weights, 0.0)


def column_rows(
    ops: Backend,
    student: Float[Array, "batch classes"],
    teacher: Float[Array, "batch classes"],
    kept: Bool[Array, "batch"] | None,  # noqa: F821
    key_temperature: Scalar,
) -> Float[Array, "batch"]:  # noqa: F821
    """Category-wise contrast within a class column, across the kept rows of the batch.

    ``L_i = B' Σ_c ω_c q^t_ic log(q^t_ic / q^s_ic)``. Since ``ω_c = Σ_k p^t_kc / B'`` and
    ``q^t_ic = p^t_ic / Σ_k p^t_kc``, the product ``B' ω_c q^t_ic`` is ``p^t_ic`` itself.
    """
    log_p_student = _log_softmax(ops, student)
    log_p_teacher = _log_softmax(ops, ops.maximum(teacher / key_temperature, MASKED))
    if kept is not None:
        log_p_student = ops.where(kept[:, None], log_p_student, MASKED)
        log_p_teacher = ops.where(kept[:, None], log_p_teacher, MASKED)
    p_teacher = ops.exp(log_p_teacher)
    log_q_student = log_p_student - _log_sum_exp(ops, log_p_student, 0)
    log_q_teacher = log_p_teacher - _log_sum_exp(ops, log_p_teacher, 0)
    return _divergence(ops, p_teacher, log_q_teacher, log_q_student)


def plain_kl_rows(
    ops: Backend,
    student: Float[Array, "block classes"],
    teacher: Float[Array, "block classes"],
    temperature: Scalar,
    gradient: bool,
) -> RowsAndGradient:
    """Plain distillation: ``T² KL(softmax(t/T) ‖ softmax(s/T))``, gradient ``T (p^s - p^t)``."""
    log_p_student = _log_softmax(ops, student / temperature)
    log_p_teacher = _log_softmax(ops, ops.maximum(teacher / temperature, MASKED))
    p_teacher = ops.exp(log_p_teacher)
    rows = temperature * temperature * _divergence(ops, p_teacher, log_p_teacher, log_p_student)
    if not gradient:
        return rows, None
    return rows, temperature * (ops.exp(log_p_student) - p_teacher)


def decoupled_kl_rows(
    ops: Backend,
    student: Float[Array, "block classes"],
    teacher: Float[Array, "block classes"],
    target: Int[Array, "block"],  # noqa: F821
    temperature: Scalar,
    alpha: Scalar,
    beta: Scalar,
    gradient: bool,
) -> RowsAndGradient:
    """Decoupled distillation (Zhao et al. 2022): ``T² [α KL(b^t ‖ b^s) + β KL(r^t ‖ r^s)]``.

    ``b`` is target against rest, ``r`` the softmax over the rest. A row whose target is no class
    has no target part; its rest is the whole row.
    """
    is_target = _is_target(ops, target, student.shape[1])
    has_target = ops.astype((target >= 0) & (target < student.shape[1]), ops.dtype(student))
    log_odds_student, log_r_student = _split(ops, student / temperature, is_target)
    teacher = ops.maximum(teacher / temperature, MASKED)
    log_odds_teacher, log_r_teacher = _split(ops, teacher, is_target)

    log_b_student = -ops.softplus(-log_odds_student)
    log_b_teacher = -ops.softplus(-log_odds_teacher)
    log_not_student = -ops.softplus(log_odds_student)
    log_not_teacher = -ops.softplus(log_odds_teacher)
    b_teacher = ops.exp(log_b_teacher)
    binary = b_teacher * (log_b_teacher - log_b_student) + ops.exp(log_not_teacher) * (
        log_not_teacher - log_not_student
    )
    in_rest = (teacher > MASKED / 2) & ~is_target
    r_teacher = ops.where(in_rest, ops.exp(log_r_teacher), 0.0)
    rest = _divergence(ops, r_teacher, log_r_teacher, log_r_student)
    rows = temperature * temperature * (alpha * has_target * binary + beta * rest)
    if not gradient:
        return rows, None
    delta = (alpha * has_target * (ops.exp(log_b_student) - b_teacher))[:, None]
    has_rest = ops.sum(r_teacher, 1, keepdims=True)  # 1, or 0 where the target is the only class
    r_student = ops.exp(log_r_student)
    apart = ops.where(is_target, delta, beta * (has_rest * r_student - r_teacher))
    return rows, temperature * (apart - delta * r_student)


def cross_entropy_rows(
    ops: Backend,
    student: Float[Array, "block classes"],
    labels: Float[Array, "block classes"],
    gradient: bool,
) -> RowsAndGradient:
    """Cross-entropy with the labels, ``-Σ_c y_c log softmax(s)_c``."""
    log_p = _log_softmax(ops, student)
    rows = -ops.sum(labels * log_p, 1)
    if not gradient:
        return rows, None
    return rows, ops.sum(labels, 1, keepdims=True) * ops.exp(log_p) - labels


def _mask_same_label(ops: Backend, similarity: Array, same_label: Array, is_own: Array) -> Array:
    """Return ``S + log(1 - A)``, the own key's S untouched."""
    if ops.dtype(same_label) == "bool":
        return ops.where(same_label & ~is_own, MASKED, similarity)
    repel = 1.0 - same_label
    counts = repel > 1e-6
    weighted = similarity + ops.log(ops.where(counts, repel, 1.0))
    return ops.where(is_own, similarity, ops.where(counts, weighted, MASKED))


def _logsumexp(ops: Backend, x: Array, softmax: bool) -> tuple[Array, Array | None]:
    """Return the row-wise logsumexp (block, 1) and, if asked for, the softmax that it implies."""
    peak = ops.stop_gradient(ops.max(x, 1, keepdims=True))
    exponentials = ops.exp(x - peak)
    total = ops.sum(exponentials, 1, keepdims=True)
    return ops.log(total) + peak, exponentials / total if softmax else None


def _log_sum_exp(ops: Backend, x: Array, axis: int) -> Array:
    peak = ops.stop_gradient(ops.max(x, axis, keepdims=True))
    return ops.log(ops.sum(ops.exp(x - peak), axis, keepdims=True)) + peak


def _log_softmax(ops: Backend, x: Array) -> Array:
    return x - _log_sum_exp(ops, x, 1)


def _divergence(ops: Backend, p: Array, log_p: Array, log_q: Array) -> Array:
    """Return ``Σ p (log p - log q)`` over the classes, with ``0 log 0 = 0``."""
    return ops.sum(ops.where(p > 0, p * (log_p - log_q), 0.0), 1)


def _split(ops: Backend, z: Array, is_target: Array) -> tuple[Array, Array]:
    """Return the log odds of target against rest, and the log-softmax of the rest."""
    rest = ops.where(is_target, MASKED, z)
    log_sum = _log_sum_exp(ops, rest, 1)
    z_target = ops.sum(ops.where(is_target, z, 0.0), 1)
    return z_target - log_sum[:, 0], rest - log_sum


def _is_target(ops: Backend, labels: Array, classes: int) -> Array:
    return ops.arange(classes, labels)[None, :] == labels[:, None]


def _as_float(ops: Backend, x: Array, like: Array) -> Array:
    return ops.astype(x, ops.dtype(like))


def _at(ops: Backend, index: Array, like: Array) -> Array:
    """Return 1 at ``index`` in each row, else 0."""
    columns = ops.arange(ops.size(like, 1), like)
    return _as_float(ops, columns[None, :] == index[:, None], like)

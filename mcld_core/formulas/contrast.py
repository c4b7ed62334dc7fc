"""The rows of each term: value and, on request, the gradient in closed form.

Every function here works on blocks of anchor rows and returns ``(rows, gradient)``. The value is
written so that a framework may differentiate it. Where a ``factor`` is given, ``factor`` times
the derivative is formed by its formula as well (with respect to S for the contrasts, to the
student's logits for the rest); with ``factor=None`` it is None.

Masking: a key that does not count has ``S = MASKED``, a finite number so far below every logit
that its exponential is exactly 0 and so small that nothing overflows.

Cost: a pass over a block costs about 1 % of its matrix products, so each is counted. Factors of
a row are joined first, a factor that is the Python number 1 is left out, and a single entry of a
row is read and written by its index.
"""

from __future__ import annotations

from typing import NamedTuple

from mcld_core.backends import Backend
from mcld_core.typing import Array, Bool, Float, Int, Scalar

MASKED = -1e30
"""The logit of what does not count; finite, so that a row of only such logits has no NaN."""

NEGLIGIBLE = 1e-30
"""A sum of label weights up to it is none: float32 has no digits there to divide by."""

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
    factor: Scalar | None = None,
) -> RowsAndGradient:
    """Instance-wise InfoNCE: ``softplus(log Σ_{j≠own} (1 - A_ij) exp S_ij - S_own)``.

    ``same_label`` is A, or None where the target mask is off (A taken as 0). Its gradient is the
    softmax over own and negatives, less 1 at the own key; minus the sum of the negatives there,
    where 1 - 1 would be left of a certain row.
    """
    own = own[:, None]
    at_own = ops.take_along_axis(similarity, own, 1)
    if same_label is None:
        logits = ops.put_along_axis(similarity, own, 0.0 * at_own + MASKED)
    else:
        same = ops.astype(0 * own + 1, ops.dtype(same_label))
        logits = _without_same(ops, similarity, ops.put_along_axis(same_label, own, same))
    soft = _soften(ops, logits)
    margin = at_own - soft.log_sum
    rows = ops.softplus(-margin)
    if factor is None:
        return rows[:, 0], None
    share = times(factor, ops.exp(-ops.softplus(margin)))
    return rows[:, 0], ops.put_along_axis(soft.weights * (share / soft.total), own, -share)


def category_rows(
    ops: Backend,
    similarity: Float[Array, "block keys"],
    same_label: Array,
    factor: Scalar | None = None,
) -> RowsAndGradient:
    """Category-wise 1-to-N contrast: ``log Σ_k exp S_ik - Σ_j w_ij S_ij``, ``w = A / Σ A``.

    0, with a zero gradient, where no key has the anchor's label. Its gradient is softmax - w.
    """
    soft = _soften(ops, similarity)
    total = ops.sum(ops.astype(same_label, ops.dtype(similarity)), 1, keepdims=True)
    has_positive = total > NEGLIGIBLE
    share = ops.where(has_positive, 1.0 / ops.where(has_positive, total, 1.0), 0.0)
    positive = share * ops.sum(_weighted(ops, same_label, similarity), 1, keepdims=True)
    rows = ops.where(has_positive, soft.log_sum - positive, 0.0)[:, 0]
    if factor is None:
        return rows, None
    p = soft.weights * ops.where(has_positive, factor / soft.total, 0.0)
    return rows, p - _weighted(ops, same_label, times(factor, share))


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
    log_p_student = ops.log_softmax(student, 1)
    log_p_teacher = ops.log_softmax(ops.maximum(teacher / key_temperature, MASKED), 1)
    if kept is not None:
        log_p_student = ops.where(kept[:, None], log_p_student, MASKED)
        log_p_teacher = ops.where(kept[:, None], log_p_teacher, MASKED)
    p_teacher = ops.exp(log_p_teacher)
    log_q_student = ops.log_softmax(log_p_student, 0)
    log_q_teacher = ops.log_softmax(log_p_teacher, 0)
    return ops.sum(p_teacher * (log_q_teacher - log_q_student), 1)


def plain_kl_rows(
    ops: Backend,
    student: Float[Array, "block classes"],
    teacher: Float[Array, "block classes"],
    temperature: Scalar,
    factor: Scalar | None = None,
) -> RowsAndGradient:
    """Plain distillation: ``T² KL(softmax(t/T) ‖ softmax(s/T))``, gradient ``T (p^s - p^t)``."""
    ours = _soften(ops, divide(student, temperature))
    theirs = _soften(ops, ops.maximum(divide(teacher, temperature), MASKED))
    rows = temperature * temperature * _divergence(ops, theirs, ours)
    if factor is None:
        return rows, None
    factor = times(factor, temperature)
    return rows, ours.weights * (factor / ours.total) - theirs.weights * (factor / theirs.total)


def decoupled_kl_rows(
    ops: Backend,
    student: Float[Array, "block classes"],
    teacher: Float[Array, "block classes"],
    target: Int[Array, "block"],  # noqa: F821
    temperature: Scalar,
    alpha: Scalar,
    beta: Scalar,
    factor: Scalar | None = None,
) -> RowsAndGradient:
    """Decoupled distillation (Zhao et al. 2022): ``T² [α KL(b^t ‖ b^s) + β KL(r^t ‖ r^s)]``.

    ``b`` is target against rest, ``r`` the softmax over the rest. A row whose target is no class
    has no target part; its rest is the whole row. The gradient, with ``δ = α (b^s - b^t)`` at the
    target: ``T δ`` there, ``T (-δ r^s + β (r^s - r^t))`` elsewhere.
    """
    dtype = ops.dtype(student)
    is_target = _is_target(ops, target, student.shape[1])
    has_target = ops.astype((target >= 0) & (target < student.shape[1]), dtype)[:, None]
    index = ops.where(has_target[:, 0] > 0, target, 0)[:, None]
    student = divide(student, temperature)
    teacher = ops.maximum(divide(teacher, temperature), MASKED)
    ours = _soften(ops, ops.where(is_target, MASKED, student))
    theirs = _soften(ops, ops.where(is_target, MASKED, teacher))
    odds = ops.take_along_axis(student, index, 1) - ours.log_sum
    teacher_odds = ops.take_along_axis(teacher, index, 1) - theirs.log_sum

    log_b, log_not = -ops.softplus(-odds), -ops.softplus(odds)
    teacher_log_b, teacher_log_not = -ops.softplus(-teacher_odds), -ops.softplus(teacher_odds)
    b, teacher_b = ops.exp(log_b), ops.exp(teacher_log_b)
    binary = teacher_b * (teacher_log_b - log_b)
    binary = binary + ops.exp(teacher_log_not) * (teacher_log_not - log_not)
    has_rest = ops.astype(theirs.peak > MASKED / 2, dtype)  # 0 where the target is all there is
    rest = has_rest[:, 0] * _divergence(ops, theirs, ours)
    rows = alpha * has_target[:, 0] * binary[:, 0] + beta * rest
    rows = temperature * temperature * rows
    if factor is None:
        return rows, None
    factor = times(factor, temperature)
    delta = alpha * has_target * (b - teacher_b)
    rest_factor = beta * has_rest
    gradient = ours.weights * (times(factor, rest_factor - delta) / ours.total)
    gradient = gradient - theirs.weights * (times(factor, rest_factor) / theirs.total)
    at_target = ops.take_along_axis(gradient, index, 1)  # 0 where there is a target
    return rows, ops.put_along_axis(gradient, index, at_target + times(factor, delta))


def cross_entropy_rows(
    ops: Backend,
    student: Float[Array, "block classes"],
    labels: Float[Array, "block classes"],
    factor: Scalar | None = None,
) -> RowsAndGradient:
    """Cross-entropy with the labels, ``-Σ_c y_c log softmax(s)_c``."""
    log_p = ops.log_softmax(student, 1)
    rows = -ops.sum(labels * log_p, 1)
    if factor is None:
        return rows, None
    gradient = ops.sum(labels, 1, keepdims=True) * ops.exp(log_p) - labels
    return rows, times(factor, gradient)


def bounded(ops: Backend, student: Array) -> Array:
    """Return student logits with `MASKED` for those below it: -inf, or the lowest of a dtype.

    Times a probability of 0 that is 0, and no temperature makes -inf of it.
    """
    return ops.maximum(student, MASKED)


def times(factor: Scalar, x: Array) -> Array:
    """Return ``factor * x``, without a pass where the factor is the Python number 1."""
    return x if isinstance(factor, (int, float)) and factor == 1 else factor * x


def divide(x: Array, divisor: Scalar) -> Array:
    """Return ``x / divisor``, without a pass where the divisor is the Python number 1."""
    return x if isinstance(divisor, (int, float)) and divisor == 1 else x / divisor


class _Softened(NamedTuple):
    """A softmax in its parts: ``weights / total``, ``logits - peak``, ``log_sum``."""

    peak: Float[Array, "block 1"]
    logits: Float[Array, "block classes"]
    weights: Float[Array, "block classes"]
    total: Float[Array, "block 1"]
    log_total: Float[Array, "block 1"]

    @property
    def log_sum(self) -> Float[Array, "block 1"]:
        return self.log_total + self.peak


def _soften(ops: Backend, z: Float[Array, "block classes"]) -> _Softened:
    peak = ops.stop_gradient(ops.max(z, 1, keepdims=True))
    logits = z - peak
    weights = ops.exp(logits)
    total = ops.sum(weights, 1, keepdims=True)
    return _Softened(peak, logits, weights, total, ops.log(total))


def _divergence(ops: Backend, p: _Softened, q: _Softened) -> Float[Array, "block"]:  # noqa: F821
    """Return ``Σ p (log p - log q)`` over the classes; a weight of exactly 0 adds exactly 0."""
    apart = ops.sum(p.weights * (p.logits - q.logits), 1, keepdims=True) / p.total
    return (apart - p.log_total + q.log_total)[:, 0]


def _without_same(ops: Backend, similarity: Array, same_label: Array) -> Array:
    """Return ``S + log(1 - A)``."""
    if ops.dtype(same_label) == "bool":
        return ops.where(same_label, MASKED, similarity)
    repel = 1.0 - same_label
    counts = repel > 1e-6
    return ops.where(counts, similarity + ops.log(ops.where(counts, repel, 1.0)), MASKED)


def _weighted(ops: Backend, weights: Array, x: Array) -> Array:
    """Return ``weights * x`` for weights of 0 to 1, or bool."""
    return ops.where(weights, x, 0.0) if ops.dtype(weights) == "bool" else weights * x


def _is_target(ops: Backend, labels: Array, classes: int) -> Array:
    return ops.arange(classes, labels)[None, :] == labels[:, None]

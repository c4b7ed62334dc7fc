"""Divergences of one row of logits from another, and the cross-entropy: one value a row.

All in log space: ``log_softmax``, ``logsumexp`` and ``log_sigmoid``, no epsilon in a logarithm.
``0 · log 0 = 0``: teacher logits of -inf are raised to `MASKED`, whose probability is 0 and
whose logarithm is finite.
"""

from __future__ import annotations

from typing import NamedTuple

from mcld_core.backends import Backend
from mcld_core.typing import Array, Bool, Float, Int, Labels, Logits, Places, Scalar, Values

MASKED = -1e30
"""The logit of what does not count; finite, so that a row of only such logits has no NaN."""


def raised(ops: Backend, logits: Array) -> Array:
    """Return logits with `MASKED` for those below it: -inf, or the lowest of a dtype.

    Times a probability of 0 that is 0, and no temperature makes -inf of it.
    """
    return ops.maximum(logits, MASKED)


def divide(x: Array, divisor: Scalar) -> Array:
    """Return ``x / divisor``, without a pass where the divisor is the Python number 1."""
    return x if _is_one(divisor) else x / divisor


def times(factor: Scalar, x: Array) -> Array:
    """Return ``factor · x``, without a pass where the factor is the Python number 1."""
    return x if _is_one(factor) else factor * x


def _is_one(number: Scalar) -> bool:
    return isinstance(number, (int, float)) and number == 1


def softened(ops: Backend, logits: Array, temperature: Scalar) -> Array:
    """Return the teacher's logits over a temperature, raised to `MASKED`.

    Where the temperature is trained, a logit of -inf adds 0 to its gradient, and not -inf times 0.
    """
    if isinstance(temperature, (int, float)):
        return raised(ops, divide(logits, temperature))
    low = logits <= MASKED
    return ops.where(low, MASKED, ops.where(low, 0.0, logits) / temperature)


def masked_log(ops: Backend, x: Array) -> Array:
    """Return log x, and `MASKED` where x, which is ≥ 0, is 0."""
    positive = x > 0
    return ops.where(positive, ops.log(ops.where(positive, x, 1.0)), MASKED)


class Softmax(NamedTuple):
    """A softmax in its parts, ``weights / total``, so that its exponentials are formed once."""

    logits: Logits
    """Less the row's largest."""
    weights: Float[Array, "batch classes"]
    total: Values
    log_total: Values
    peak: Values

    @classmethod
    def of(cls, ops: Backend, z: Logits) -> Softmax:
        """Return the softmax of logits."""
        peak = ops.stop_gradient(ops.max(z, 1, keepdims=True))
        logits = z - peak
        weights = ops.exp(logits)
        total = ops.sum(weights, 1)
        return cls(logits, weights, total, ops.log(total), peak[:, 0])

    def kl_to(self, ops: Backend, other: Softmax) -> Values:
        """Return ``Σ p (log p - log q)``; a weight of exactly 0 adds exactly 0."""
        apart = ops.sum(self.weights * (self.logits - other.logits), 1) / self.total
        return apart - self.log_total + other.log_total


def kl_divergence(ops: Backend, student: Logits, teacher: Logits, temperature: Scalar) -> Values:
    """Plain distillation: ``T² KL(softmax(t/T) ‖ softmax(s/T))``."""
    q = Softmax.of(ops, divide(student, temperature))
    p = Softmax.of(ops, softened(ops, teacher, temperature))
    return temperature * temperature * p.kl_to(ops, q)


def target_class(ops: Backend, labels: Labels) -> Places:
    """Return int labels as they are and the arg max of soft ones."""
    return labels if labels.ndim == 1 else ops.argmax(labels, 1)


def at_target(
    ops: Backend, target: Places, logits: Logits
) -> tuple[Bool[Array, "block classes"], Int[Array, "block 1"], Values]:
    """Return where the target stands, its index (0 if it is not a class), and 1 if it is one."""
    classes = logits.shape[1]
    is_target = ops.arange(classes, target)[None, :] == target[:, None]
    has_target = (target >= 0) & (target < classes)
    index = ops.where(has_target, target, 0)[:, None]
    return is_target, index, ops.astype(has_target, ops.dtype(logits))


def binary_divergence(ops: Backend, p: Values, q: Values) -> Values:
    """Return ``KL( (b, 1 - b) ‖ (b', 1 - b') )`` of the log odds of b and b'."""
    log_b, log_not = ops.log_sigmoid(p), ops.log_sigmoid(-p)
    at_event = ops.exp(log_b) * (log_b - ops.log_sigmoid(q))
    return at_event + ops.exp(log_not) * (log_not - ops.log_sigmoid(-q))


def log_odds(
    ops: Backend, z: Logits, is_target: Bool[Array, "block classes"], index: Int[Array, "block 1"]
) -> Values:
    """Return the log odds of one class of each row against the rest."""
    rest = Softmax.of(ops, ops.where(is_target, MASKED, z))
    return ops.take_along_axis(z, index, 1)[:, 0] - (rest.log_total + rest.peak)


def decoupled_divergence(
    ops: Backend,
    student: Logits,
    teacher: Logits,
    target: Places,
    temperature: Scalar,
    alpha: Scalar,
    beta: Scalar,
) -> Values:
    """Decoupled distillation (Zhao et al. 2022): ``T² [α KL(b^t ‖ b^s) + β KL(r^t ‖ r^s)]``.

    ``b`` is target against rest, ``r`` the softmax over the rest. A row whose target is not a class
    has no target part; its rest is the whole row.
    """
    is_target, index, has_target = at_target(ops, target, student)
    student = divide(student, temperature)
    teacher = softened(ops, teacher, temperature)
    rest, teacher_rest = (
        Softmax.of(ops, ops.where(is_target, MASKED, z)) for z in (student, teacher)
    )
    odds, teacher_odds = (
        ops.take_along_axis(z, index, 1)[:, 0] - (r.log_total + r.peak)
        for z, r in ((student, rest), (teacher, teacher_rest))
    )
    has_rest = teacher_rest.peak > MASKED / 2  # else the target is all there is
    has_rest = ops.astype(has_rest, ops.dtype(student))
    value = times(alpha, has_target * binary_divergence(ops, teacher_odds, odds))
    value = value + times(beta, has_rest * teacher_rest.kl_to(ops, rest))
    return temperature * temperature * value


def cross_entropy(ops: Backend, student: Logits, labels: Labels) -> Values:
    """Cross-entropy with the labels, ``-Σ_c y_c log softmax(s)_c``; 0 of a label of no class."""
    if labels.ndim == 1:
        has_label = (labels >= 0) & (labels < student.shape[1])
        index = ops.where(has_label, labels, 0)[:, None]
        at_label = ops.take_along_axis(student, index, 1)[:, 0]
        return ops.where(has_label, ops.logsumexp(student, 1) - at_label, 0.0)
    return -ops.sum(labels * ops.log_softmax(student, 1), 1)

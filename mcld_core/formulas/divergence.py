"""Divergences of one row of logits from another, and the cross-entropy: one value a row.

All in log space: ``log_softmax``, ``logsumexp`` and ``log_sigmoid``, no epsilon in a logarithm.
``0 · log 0 = 0``: teacher logits of -inf are raised to `MASKED`, whose probability is 0 and
whose logarithm is finite.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mcld_core.arguments.rows import MASKED as MASKED
from mcld_core.backends import Backend
from mcld_core.typing import Array, Bool, Float, Int, Labels, Logits, Places, Scalar, Values


def raised(ops: Backend, logits: Array) -> Array:
    """Return logits with `MASKED` for those below it: -inf, or the lowest of a dtype.

    Times a probability of 0 that is 0, and no temperature makes -inf of it.
    """
    return ops.at_least(logits, MASKED)


def divide(x: Array, divisor: Scalar) -> Array:
    """Return ``x / divisor``, without a pass where the divisor is the Python number 1."""
    return x if isinstance(divisor, (int, float)) and divisor == 1 else x / divisor


def times(factor: Scalar, x: Array) -> Array:
    """Return ``factor · x``, without a pass where the factor is the Python number 1."""
    return x if isinstance(factor, (int, float)) and factor == 1 else factor * x


def softened(ops: Backend, logits: Array, temperature: Scalar) -> Array:
    """Return the teacher's logits over a temperature, raised to `MASKED`.

    Where the temperature is trained, a logit of -inf adds 0 to its gradient, and not -inf times 0.
    """
    if isinstance(temperature, (int, float)):
        return ops.at_least(divide(logits, temperature), MASKED)
    low = logits <= MASKED
    return ops.where(low, MASKED, ops.where(low, 0.0, logits) / temperature)


class Softmax(NamedTuple):
    """A softmax in its parts, ``weights / total``, so that its exponentials are formed once."""

    logits: Logits
    """Less the row's largest."""
    weights: Float[Array, "batch classes"]
    total: Values
    log_total: Values
    log_sum: Values
    """``log Σ exp z``; its derivative needs no second pass of exp."""

    @classmethod
    def of(cls, ops: Backend, z: Logits) -> Softmax:
        """Return the softmax of logits."""
        peak = ops.stop_gradient(ops.max(z, 1, keepdims=True))
        logits = z - peak
        weights = ops.exp(logits)
        total = ops.sum(weights, 1)
        log_total = ops.log(total)
        return cls(logits, weights, total, log_total, log_total + peak[:, 0])

    def kl_to(self, ops: Backend, other: Softmax) -> Values:
        """Return ``Σ p (log p - log q)``; a weight of exactly 0 adds exactly 0."""
        near = ops.sum(self.weights * (other.logits - self.logits), 1) / self.total
        return other.log_total - self.log_total - near


DIVERGENCES = ("forward", "reverse", "jsd", "tv")


def divergence(ops: Backend, log_p: Array, log_q: Array, name: str, mix: Any = 0.5) -> Values:
    """Return ``KL(p ‖ q)``, ``KL(q ‖ p)``, the JSD or ``½ Σ |p - q|`` of each row, summed."""
    if name == "forward":
        return ops.sum(ops.exp(log_p) * (log_p - log_q), 1)
    q = ops.exp(log_q)
    if name == "tv":
        return 0.5 * ops.sum(ops.abs(ops.exp(log_p) - q), 1)
    if name == "reverse":
        value = ops.sum(q * (log_q - log_p), 1)
        low = log_p < MASKED * 1e-9  # `MASKED` over any temperature
        ruled_out = ops.sum(ops.where(low, ops.stop_gradient(q), 0.0), 1) > 0
        infinite = ops.where(ruled_out, float("inf"), 0.0 * ops.stop_gradient(value) + 1.0)
        return value * infinite  # and so is its gradient: where a choice of infinity would have 0
    p, q = mix * ops.exp(log_p), (1.0 - mix) * q
    m = p + q
    some = m > 1e-37  # else both are 0 up to rounding, and so is what they add
    log_m = ops.log(ops.where(some, m, 1.0))
    return ops.sum(p * (log_p - log_m) + q * (log_q - log_m), 1)


def squared(name: str, temperature: Scalar) -> Scalar:
    """Return the factor T² of a divergence; the total variation has none."""
    return 1.0 if name == "tv" else temperature * temperature


def whole_divergence(
    ops: Backend, student: Logits, teacher: Logits, temperature: Scalar, name: str, mix: Any = 0.5
) -> Values:
    """Return T² times the divergence of ``softmax(s/T)`` and ``softmax(t/T)``."""
    log_q = ops.log_softmax(divide(student, temperature), 1)
    log_p = ops.log_softmax(softened(ops, teacher, temperature), 1)
    return squared(name, temperature) * divergence(ops, log_p, log_q, name, mix)


class Target(NamedTuple):
    """One class of each row."""

    index: Int[Array, "block 1"]
    """Its place; 0 where it is not a class."""
    is_class: Bool[Array, "block 1"]

    @classmethod
    def of(cls, ops: Backend, target: Places, classes: int) -> Target:
        """Return the class that stands at ``target`` (block,), in any range, of each row."""
        is_class = ((target >= 0) & (target < classes))[:, None]
        return cls(ops.where(is_class, target[:, None], 0), is_class)

    def split(self, ops: Backend, z: Logits) -> tuple[Float[Array, "block 1"], Logits]:
        """Return the target's logit, and the row with `MASKED` in its place."""
        own = ops.take_along_axis(z, self.index, 1)
        return own, ops.put_along_axis(z, self.index, ops.where(self.is_class, MASKED, own))


def binary_divergence(ops: Backend, p: Values, q: Values) -> Values:
    """Return ``KL( (b, 1 - b) ‖ (b', 1 - b') )`` of the log odds of b and b'."""
    log_b, log_not = ops.log_sigmoid(p), ops.log_sigmoid(-p)
    at_event = ops.exp(log_b) * (log_b - ops.log_sigmoid(q))
    return at_event + ops.exp(log_not) * (log_not - ops.log_sigmoid(-q))


def log_odds(ops: Backend, z: Logits, target: Target) -> tuple[Values, Softmax]:
    """Return the log odds of one class of each row against the rest, and the rest's softmax."""
    own, others = target.split(ops, z)
    rest = Softmax.of(ops, others)
    return own[:, 0] - rest.log_sum, rest


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
    place = Target.of(ops, target, student.shape[1])
    odds, rest = log_odds(ops, divide(student, temperature), place)
    teacher_odds, teacher_rest = log_odds(ops, softened(ops, teacher, temperature), place)
    of_target = ops.where(place.is_class[:, 0], binary_divergence(ops, teacher_odds, odds), 0.0)
    has_rest = teacher_rest.log_sum > MASKED / 2  # else the target is all there is
    of_rest = ops.where(has_rest, teacher_rest.kl_to(ops, rest), 0.0)
    value = times(alpha, of_target) + times(beta, of_rest)
    return temperature * temperature * value


def cross_entropy(ops: Backend, student: Logits, labels: Labels) -> Values:
    """Cross-entropy with the labels, ``-Σ_c y_c log softmax(s)_c``; 0 of a label of no class."""
    if labels.ndim == 1:
        target = Target.of(ops, labels, student.shape[1])
        at_label = ops.take_along_axis(student, target.index, 1)[:, 0]
        return ops.where(target.is_class[:, 0], ops.logsumexp(student, 1) - at_label, 0.0)
    return -ops.sum(labels * ops.log_softmax(student, 1), 1)

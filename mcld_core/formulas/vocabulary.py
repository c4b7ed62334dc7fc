"""Divergences over a vocabulary: all of its logits, or k classes and one for all others.

All in log space, by `MASKED` as in `mcld_core.formulas.divergence`: a probability of 0 on either
side is a logarithm that is finite, so that 0 times it is 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mcld_core.arguments import is_plain
from mcld_core.backends import Backend
from mcld_core.formulas.divergence import MASKED, Target, divergence, divide, raised, squared
from mcld_core.typing import Array, Bool, Float, Int, Labels, Logits, Scalar, Values


class TopRows(NamedTuple):
    """A teacher's rows of which k classes are stored, and the rest's mass: log-probabilities."""

    values: Float[Array, "rows k"]
    """`MASKED` where a row has fewer than k: no class then."""
    indices: Int[Array, "rows k"]
    """Each at most once in a row; where there is no class the place of one that there is."""
    tail: Float[Array, "rows 1"] | None = None
    """`MASKED`: nothing is left. None: both sides are renormalised over the k."""


def parted(
    ops: Backend, student: Logits, teacher: TopRows, temperature: Scalar
) -> tuple[Float[Array, "rows k"], Logits]:
    """Return a student's logits at the stored classes, and the others' with `MASKED` there.

    The others are over T where nothing is left of the teacher: its tail is then not one class, and
    the student's distribution is that of the whole vocabulary at T.
    """
    entries = raised(ops, ops.take_along_axis(student, teacher.indices, 1))
    has_entries = ops.max(teacher.values, 1, keepdims=True) > MASKED / 2
    taken = ops.where(has_entries, MASKED, entries)
    others = ops.put_along_axis(student, teacher.indices, taken)
    if teacher.tail is None or is_plain(temperature, 1):
        return entries, others
    return entries, others / divisor(ops, teacher, temperature)


def divisor(ops: Backend, teacher: TopRows, temperature: Scalar) -> Float[Array, "rows 1"]:
    """Return T for rows of which nothing is left, 1 for the others."""
    tail: Any = teacher.tail
    return ops.where(tail > MASKED / 2, 1.0, temperature + 0.0 * tail)


def top_divergence(
    ops: Backend,
    entries: Float[Array, "rows k"],
    rest: Float[Array, "rows 1"] | None,
    teacher: TopRows,
    temperature: Scalar,
    name: str,
    mix: Scalar,
) -> Values:
    """Return T² times the divergence of k + 1 classes; ``rest`` is the logsumexp of the others.

    Both sides' log-probabilities at T = 1 are divided by T and renormalised: the others of each
    side are one class more, so that no class is compared with what the teacher did not say of it.
    """
    stored = teacher.values > MASKED / 2
    log_p = ops.where(stored, divide(teacher.values, temperature), MASKED)
    log_q = ops.where(stored, divide(entries, temperature), MASKED)
    if teacher.tail is None or rest is None:
        log_p, log_q = ops.log_softmax(log_p, 1), ops.log_softmax(log_q, 1)
        return squared(name, temperature) * divergence(ops, log_p, log_q, name, mix)
    if not is_plain(temperature, 1):
        rest = rest * divisor(ops, teacher, temperature) / temperature
    tail = ops.where(teacher.tail > MASKED / 2, divide(teacher.tail, temperature), MASKED)
    of_p = log_add(ops, ops.logsumexp(log_p, 1, keepdims=True), tail)
    of_q = log_add(ops, ops.logsumexp(log_q, 1, keepdims=True), rest)
    value = divergence(ops, log_p - of_p, log_q - of_q, name, mix)
    value = value + divergence(ops, tail - of_p, rest - of_q, name, mix)
    return squared(name, temperature) * value


def sampled_divergence(
    ops: Backend, student: Logits, scores: Float[Array, "rows scores"], tokens: Any
) -> Values:
    """Return ``stop_gradient(w (log q_y - log p_y)) · log q_y`` of the token y that each row drew.

    ``scores`` are log p_y and, where an older student drew, its log q_y: w is what q_y has become.
    """
    own, _, _ = at_label(ops, student, tokens)
    log_q = own - ops.logsumexp(student, 1, keepdims=True)
    held = ops.stop_gradient(log_q)
    factor = held - scores[:, :1]
    if scores.shape[1] > 1:
        factor = factor * ops.exp(held - scores[:, 1:])
    return (factor * log_q)[:, 0]


def log_add(ops: Backend, x: Array, y: Array) -> Array:
    """Return ``log(exp x + exp y)``."""
    peak = ops.stop_gradient(ops.maximum(x, y))
    return peak + ops.log(ops.exp(x - peak) + ops.exp(y - peak))


def at_label(
    ops: Backend, student: Logits, labels: Labels
) -> tuple[Float[Array, "rows 1"], Int[Array, "rows 1"], Bool[Array, "rows 1"]]:
    """Return each row's logit at its label, the label, and whether it is a class (else 0)."""
    index, is_class = Target.of(ops, labels, student.shape[1])
    return raised(ops, ops.take_along_axis(student, index, 1)), index, is_class

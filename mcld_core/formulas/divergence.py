"""Divergences of one row of logits from another, and the cross-entropy: one value a row.

All in log space: ``log_softmax``, ``logsumexp`` and ``softplus``, no epsilon in a logarithm.
``0 · log 0 = 0``: teacher logits of -inf are raised to `MASKED`, whose probability is 0 and
whose logarithm is finite.
"""

from __future__ import annotations

from mcld_core.backends import Backend
from mcld_core.formulas.similarity import divide
from mcld_core.typing import Array, Float, Int, Scalar

MASKED = -1e30
"""The logit of what does not count; finite, so that a row of only such logits has no NaN."""


def raised(ops: Backend, logits: Array) -> Array:
    """Return logits with `MASKED` for those below it: -inf, or the lowest of a dtype.

    Times a probability of 0 that is 0, and no temperature makes -inf of it.
    """
    return ops.maximum(logits, MASKED)


def kl_divergence(
    ops: Backend,
    student: Float[Array, "block classes"],
    teacher: Float[Array, "block classes"],
    temperature: Scalar,
) -> Float[Array, " block"]:
    """Plain distillation: ``T² KL(softmax(t/T) ‖ softmax(s/T))``."""
    log_q = ops.log_softmax(divide(student, temperature), 1)
    log_p = ops.log_softmax(raised(ops, divide(teacher, temperature)), 1)
    return temperature * temperature * ops.sum(ops.exp(log_p) * (log_p - log_q), 1)


def decoupled_divergence(
    ops: Backend,
    student: Float[Array, "block classes"],
    teacher: Float[Array, "block classes"],
    target: Int[Array, " block"],
    temperature: Scalar,
    alpha: Scalar,
    beta: Scalar,
) -> Float[Array, " block"]:
    """Decoupled distillation (Zhao et al. 2022): ``T² [α KL(b^t ‖ b^s) + β KL(r^t ‖ r^s)]``.

    ``b`` is target against rest, ``r`` the softmax over the rest. A row whose target is no class
    has no target part; its rest is the whole row.
    """
    classes, dtype = student.shape[1], ops.dtype(student)
    is_target = ops.arange(classes, target)[None, :] == target[:, None]
    has_target = (target >= 0) & (target < classes)
    index = ops.where(has_target, target, 0)[:, None]
    student = divide(student, temperature)
    teacher = raised(ops, divide(teacher, temperature))

    rest, teacher_rest = (ops.where(is_target, MASKED, z) for z in (student, teacher))
    log_r, teacher_log_r = (ops.log_softmax(z, 1) for z in (rest, teacher_rest))
    within_rest = ops.sum(ops.exp(teacher_log_r) * (teacher_log_r - log_r), 1)
    has_rest = ops.max(teacher_rest, 1) > MASKED / 2  # else the target is all there is

    odds, teacher_odds = (
        ops.take_along_axis(z, index, 1)[:, 0] - ops.logsumexp(r, 1)
        for z, r in ((student, rest), (teacher, teacher_rest))
    )
    at_target = binary_divergence(ops, odds, teacher_odds)
    has_target, has_rest = (ops.astype(x, dtype) for x in (has_target, has_rest))
    value = alpha * has_target * at_target + beta * has_rest * within_rest
    return temperature * temperature * value


def binary_divergence(ops: Backend, odds: Array, teacher_odds: Array) -> Array:
    """Return ``KL(b^t ‖ b^s)`` of two events, from the log odds of the first."""
    log_b, log_not = -ops.softplus(-odds), -ops.softplus(odds)
    teacher_log_b, teacher_log_not = -ops.softplus(-teacher_odds), -ops.softplus(teacher_odds)
    value = ops.exp(teacher_log_b) * (teacher_log_b - log_b)
    return value + ops.exp(teacher_log_not) * (teacher_log_not - log_not)


def cross_entropy(
    ops: Backend,
    student: Float[Array, "block classes"],
    labels: Int[Array, " block"] | Float[Array, "block classes"],
) -> Float[Array, " block"]:
    """Cross-entropy with the labels, ``-Σ_c y_c log softmax(s)_c``; 0 of a label of no class."""
    if labels.ndim == 1:
        has_label = (labels >= 0) & (labels < student.shape[1])
        index = ops.where(has_label, labels, 0)[:, None]
        at_label = ops.take_along_axis(student, index, 1)[:, 0]
        return ops.where(has_label, ops.logsumexp(student, 1) - at_label, 0.0)
    return -ops.sum(labels * ops.log_softmax(student, 1), 1)

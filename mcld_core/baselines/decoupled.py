"""Losses that treat the label's entry apart from the others: DKD, NKD, RLD."""

from __future__ import annotations

from typing import Any

from mcld_core.backends import Backend
from mcld_core.baselines.evaluation import evaluate
from mcld_core.formulas.divergence import (
    MASKED,
    Target,
    binary_divergence,
    cross_entropy,
    decoupled_divergence,
    divide,
    log_odds,
    raised,
    softened,
)
from mcld_core.formulas.objective import Block
from mcld_core.typing import Array, Float, Labels, Logits, Reduction, Scalar, Tensor


def dkd_loss(
    student_logits: list[Any] | Float[Tensor, "batch classes"],
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    alpha: Scalar = 1.0,
    beta: Scalar = 8.0,
    temperature: Scalar = 4.0,
    ignore_index: int = -100,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Array | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Decoupled distillation: ``T² [ α KL(b^t ‖ b^s) + β KL(r^t ‖ r^s) ]``.

    b is the target's probability against the rest, r the softmax over the rest. With soft labels
    the target is their arg max; without labels, the teacher's.

    Args:
        student_logits, teacher_logits, labels: as in `mcld_core.mcld_loss`.
        alpha: weight of the target part, ≥ 0.
        beta: weight of the non-target part, ≥ 0.
        temperature: T > 0.
        ignore_index: rows with this int label are dropped.
        sample_weight, where, reduction: as in `mcld_core.mcld_loss`; so are result and errors.

    Example:
        >>> import numpy as np
        >>> float(dkd_loss(np.eye(3), np.eye(3), np.arange(3)))
        0.0

    References:
        B. Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.
    """

    def values(ops: Backend, block: Block, **numbers: Scalar) -> Array:
        return decoupled_divergence(ops, block.student, block.teacher, block.labels, **numbers)

    rows = (student_logits, teacher_logits, labels, sample_weight, where)
    numbers = {"temperature": temperature, "alpha": alpha, "beta": beta}
    return evaluate("dkd_loss", rows, values, reduction, ignore_index=ignore_index, **numbers)


def nkd_loss(
    student_logits: list[Any] | Float[Tensor, "batch classes"],
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    gamma: Scalar = 1.5,
    temperature: Scalar = 1.0,
    ignore_index: int = -100,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Array | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Normalised KD: ``-p_y log q_y - γ T² Σ_{c≠y} p̂_c log q̂_c``.

    p and q are the teacher's and the student's softmax, at temperature 1 at the target y; p̂ and q̂
    are at T, normalised over the other classes. A cross-entropy, so not 0 where the student equals
    the teacher. With soft labels y is their arg max; without labels, the teacher's.

    Args:
        student_logits, teacher_logits, labels: as in `mcld_core.mcld_loss`.
        gamma: weight of the other classes, ≥ 0.
        temperature: T > 0.
        ignore_index: rows with this int label are dropped.
        sample_weight, where, reduction: as in `mcld_core.mcld_loss`; so are result and errors.

    Example:
        >>> import numpy as np
        >>> round(float(nkd_loss(np.eye(2), 9 * np.eye(2), np.arange(2))), 4)
        0.3132

    References:
        Z. Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation: A Unified
        Approach with Normalized Loss and Customized Soft Labels", ICCV 2023.
    """

    def values(ops: Backend, block: Block, gamma: Scalar, temperature: Scalar) -> Array:
        student, teacher = block.student, raised(ops, block.teacher)
        target = Target.of(ops, block.labels, student.shape[1])
        p_target = ops.exp(ops.take_along_axis(ops.log_softmax(teacher, 1), target.index, 1)[:, 0])
        teacher_rest = target.split(ops, softened(ops, block.teacher, temperature))[1]
        log_q = ops.log_softmax(target.split(ops, divide(student, temperature))[1], 1)
        p = ops.softmax(teacher_rest, 1)
        others = ops.where(ops.max(teacher_rest, 1) > MASKED / 2, ops.sum(p * log_q, 1), 0.0)
        nats = cross_entropy(ops, student, block.labels)  # 0 of a label of no class
        return p_target * nats - gamma * temperature * temperature * others

    rows = (student_logits, teacher_logits, labels, sample_weight, where)
    numbers = {"gamma": gamma, "temperature": temperature}
    return evaluate("nkd_loss", rows, values, reduction, ignore_index=ignore_index, **numbers)


def rld_loss(
    student_logits: list[Any] | Float[Tensor, "batch classes"],
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    alpha: Scalar = 1.0,
    beta: Scalar = 8.0,
    temperature: Scalar = 4.0,
    alpha_temperature: Scalar = 1.0,
    ignore_index: int = -100,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Array | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Refined logit distillation: the teacher's confidence at the label, and the classes below it.

    ``α T_α² KL( b(max_c p_c) ‖ b(q_y) ) + β T² KL( p ‖ q over {c: t_c < t_y} )``, b the pair of a
    probability and the rest of it, the first part at T_α, both p and q of the second at T and
    normalised over that set; 0 where it is empty. So a teacher that errs does not teach its error.
    With soft labels y is their arg max; without labels, the teacher's.

    Args:
        student_logits, teacher_logits, labels: as in `mcld_core.mcld_loss`.
        alpha: weight of the confidence part, ≥ 0.
        beta: weight of the classes below the label, ≥ 0.
        temperature: T > 0.
        alpha_temperature: T_α > 0.
        ignore_index: rows with this int label are dropped.
        sample_weight, where, reduction: as in `mcld_core.mcld_loss`; so are result and errors.

    Example:
        >>> import numpy as np
        >>> float(rld_loss(np.eye(3), np.eye(3), np.arange(3)))
        0.0

    References:
        W. Sun et al., "Knowledge Distillation with Refined Logits", ICCV 2025.
    """

    def values(
        ops: Backend,
        block: Block,
        alpha: Scalar,
        beta: Scalar,
        temperature: Scalar,
        alpha_temperature: Scalar,
    ) -> Array:
        student, teacher = block.student, raised(ops, block.teacher)
        label = Target.of(ops, block.labels, student.shape[1])
        best = Target.of(ops, ops.argmax(teacher, 1), student.shape[1])
        confidence = binary_divergence(
            ops,
            log_odds(ops, divide(teacher, alpha_temperature), best)[0],
            log_odds(ops, divide(student, alpha_temperature), label)[0],
        )
        at_label = ops.take_along_axis(teacher, label.index, 1)
        below = teacher < ops.where(label.is_class, at_label, MASKED)
        log_q, log_p = (
            ops.log_softmax(ops.where(below, divide(z, temperature), MASKED), 1)
            for z in (student, teacher)
        )
        lower = ops.where(below & (teacher > MASKED / 2), ops.exp(log_p) * (log_p - log_q), 0.0)
        has_target = ops.astype(label.is_class, ops.dtype(student))[:, 0]
        value = alpha * alpha_temperature * alpha_temperature * has_target * confidence
        return value + beta * temperature * temperature * ops.sum(lower, 1)

    rows = (student_logits, teacher_logits, labels, sample_weight, where)
    numbers = {"alpha": alpha, "beta": beta, "temperature": temperature}
    numbers |= {"alpha_temperature": alpha_temperature, "ignore_index": ignore_index}
    return evaluate("rld_loss", rows, values, reduction, **numbers)

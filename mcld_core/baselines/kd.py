"""KD by temperature: forward, reverse or Jensen-Shannon, standardised or not; TTM and WTTM."""

from __future__ import annotations

from typing import Any

from mcld_core.arguments import Checks, is_number, plain_number
from mcld_core.backends import Backend
from mcld_core.baselines.evaluation import evaluate
from mcld_core.formulas.divergence import MASKED, Softmax, raised, whole_divergence
from mcld_core.formulas.objective import Block
from mcld_core.typing import Array, Float, Logits, Reduction, Scalar, Tensor


def kd_loss(
    student_logits: list[Any] | Float[Tensor, "batch classes"],
    teacher_logits: Logits,
    *,
    temperature: Scalar = 4.0,
    standardize: bool = False,
    divergence: str = "forward",
    mix: Scalar = 0.5,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Array | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Distil softened probabilities: ``T² KL(softmax(t/T) ‖ softmax(s/T))``.

    The factor T² keeps the size of the gradient independent of the temperature. With p the
    teacher's and q the student's softmax of z/T, ``divergence`` is one of

    - ``"forward"``: ``T² KL(p ‖ q)``;
    - ``"reverse"``: ``T² KL(q ‖ p)``, +inf where the teacher rules out (by a logit of -inf) a
      class that the student does not;
    - ``"jsd"``: ``T² [ μ KL(p ‖ m) + (1 - μ) KL(q ‖ m) ]``, ``m = μ p + (1 - μ) q``.

    Args:
        student_logits, teacher_logits: as in `mcld_core.mcld_loss`.
        temperature: T > 0; checked where it is a Python number.
        standardize: first ``z ← (z - mean) / (std + 1e-7)`` on both sides, with the unbiased
            standard deviation over the finite logits of a row (logit standardisation).
        divergence: ``"forward"``, ``"reverse"`` or ``"jsd"``.
        mix: μ of ``"jsd"``, in (0, 1).
        sample_weight, where, reduction: as in `mcld_core.mcld_loss`; so are result and errors.

    Example:
        >>> import numpy as np
        >>> float(kd_loss(np.eye(3), np.eye(3)))
        0.0

    References:
        G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015.
        S. Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024. R. Agarwal et
        al., "On-Policy Distillation of Language Models", ICLR 2024 (the generalised JSD).
    """
    checks = Checks("kd_loss")
    checks.flag("standardize", standardize)
    checks.choice("divergence", divergence, ("forward", "reverse", "jsd"))
    checks.number("mix", mix, above=0.0)
    if is_number(plain_number(mix)) and mix >= 1:
        raise checks.wrong("mix needs a number in (0, 1), ends left out", repr(mix))

    def values(ops: Backend, block: Block, temperature: Scalar, mix: Scalar) -> Array:
        student, teacher = block.student, block.teacher
        if standardize:
            student, teacher = (standardized(ops, raised(ops, z)) for z in (student, teacher))
        return whole_divergence(ops, student, teacher, temperature, divergence, mix)

    rows = (student_logits, teacher_logits, None, sample_weight, where)
    return evaluate("kd_loss", rows, values, reduction, temperature=temperature, mix=mix)


def standardized(ops: Backend, z: Float[Array, "rows classes"]) -> Float[Array, "rows classes"]:
    """Return ``(z - mean) / (std + 1e-7)`` over the finite logits of each row; others `MASKED`.

    Large logits are scaled first, and the 1e-7 with them, so that no sum or square overflows.
    """
    dtype = ops.dtype(z)
    finite = z > MASKED / 2
    count = ops.sum(ops.astype(finite, dtype), 1, keepdims=True)
    z = ops.where(finite, z, 0.0)
    scale = ops.stop_gradient(ops.maximum(ops.max(ops.abs(z), 1, keepdims=True), 1.0))
    z = z / scale
    mean = ops.sum(z, 1, keepdims=True) / ops.maximum(count, 1.0)
    centred = ops.where(finite, z - mean, 0.0)
    variance = ops.sum(centred * centred, 1, keepdims=True) / ops.maximum(count - 1.0, 1.0)
    spread = variance > 0  # a constant row has no derivative of its root
    std = ops.where(spread, ops.sqrt(ops.where(spread, variance, 1.0)), 0.0)
    return ops.where(finite, centred / (std + 1e-7 / scale), MASKED)


def ttm_loss(
    student_logits: list[Any] | Float[Tensor, "batch classes"],
    teacher_logits: Logits,
    *,
    gamma: Scalar = 0.1,
    weighted: bool = True,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Array | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Transformed teacher matching: ``U_i KL( p_i^γ / U_i ‖ q_i )``, ``U_i = Σ_c p_ic^γ``.

    p and q are the softmax of the logits; only the teacher's is flattened, by the power γ. With
    ``weighted=False`` (TTM) the factor U in front is left out.

    Args:
        student_logits, teacher_logits: as in `mcld_core.mcld_loss`.
        gamma: γ > 0; 1 changes nothing.
        weighted: whether U multiplies the divergence (WTTM).
        sample_weight, where, reduction: as in `mcld_core.mcld_loss`; so are result and errors.

    Example:
        >>> import numpy as np
        >>> float(ttm_loss(np.eye(3), np.eye(3), gamma=1.0))
        0.0

    References:
        K. Zheng, E.-H. Yang, "Knowledge Distillation Based on Transformed Teacher Matching",
        ICLR 2024.
    """
    checks = Checks("ttm_loss")
    checks.number("gamma", gamma, above=0.0)
    checks.flag("weighted", weighted)

    def values(ops: Backend, block: Block, gamma: Scalar) -> Array:
        teacher = raised(ops, block.teacher)
        flat = Softmax.of(ops, raised(ops, gamma * teacher))
        value = flat.kl_to(ops, Softmax.of(ops, block.student))
        if not weighted:
            return value
        whole = Softmax.of(ops, teacher)
        log_power = flat.log_sum - gamma * whole.log_sum
        return ops.exp(log_power) * value

    rows = (student_logits, teacher_logits, None, sample_weight, where)
    return evaluate("ttm_loss", rows, values, reduction, gamma=gamma)

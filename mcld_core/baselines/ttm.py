"""KD without a temperature of the student: TTM and WTTM."""

from __future__ import annotations

from typing import Any

from mcld_core.arguments import Checks
from mcld_core.backends import Backend
from mcld_core.baselines.evaluation import evaluate
from mcld_core.formulas.divergence import Softmax, raised
from mcld_core.formulas.objective import Block
from mcld_core.typing import Array, Float, Logits, Reduction, Scalar, Tensor


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
        log_power = flat.log_total + flat.peak - gamma * (whole.log_total + whole.peak)
        return ops.exp(log_power) * value

    rows = (student_logits, teacher_logits, None, sample_weight, where)
    return evaluate("ttm_loss", rows, values, reduction, gamma=gamma)

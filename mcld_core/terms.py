"""The three terms of `mcld_loss` as losses of their own."""

from __future__ import annotations

from typing import Any

from mcld_core.config import MCLDConfig
from mcld_core.keys import TeacherKeys
from mcld_core.losses import evaluate
from mcld_core.typing import Array, Bool, Float, Labels, Logits, Reduction, Tensor


def instance_wise(
    student_logits: list[Any] | Float[Tensor, "batch classes"],
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    keys: TeacherKeys | None = None,
    class_prior: Float[Array, " classes"] | None = None,
    pairs: Bool[Array, "batch keys"] | None = None,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Array | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Contrast each student row with the teacher's row of the same sample against all others.

    ``L_ins,i = -S_i,own(i) + log( exp S_i,own(i) + Σ_{j≠own(i)} (1 - A_ij) exp S_ij )``; with
    ``config.target_mask=False`` A is taken as 0. A reconstruction; arguments, result and errors
    as in `mcld_core.mcld_loss`.

    Example:
        >>> import numpy as np
        >>> logits = np.eye(2)
        >>> round(float(instance_wise(logits, 20 * logits, np.arange(2))), 4)
        0.3133

    References:
        Q. Wang, J. Zhou, arXiv:2411.10693, 2024. A. van den Oord et al., "Representation Learning
        with Contrastive Predictive Coding", 2018 (InfoNCE).
    """
    rows = (student_logits, teacher_logits, labels, sample_weight, where)
    return evaluate(
        "instance_wise", rows, config, {"instance": 1.0}, keys=keys, class_prior=class_prior,
        pairs=pairs, reduction=reduction,
    )  # fmt: skip


def sample_wise(
    student_logits: list[Any] | Float[Tensor, "batch classes"],
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    keys: TeacherKeys | None = None,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Array | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Contrast the entries of each student row with the teacher's, the label's split off.

    ``L_sam,i = T² [ KL(b^t_i ‖ b^s_i) + β KL(r^t_i ‖ r^s_i) ]`` at temperature T, with b the
    target against the rest and r the softmax over the rest: the loss of DKD at α = 1. With
    ``config.sample_target_mask=False`` it is ``T² KL(softmax(t/T) ‖ softmax(s/T))``. Keys play no
    part. A reconstruction; arguments, result and errors as in `mcld_core.mcld_loss`.

    Example:
        >>> import numpy as np
        >>> logits = np.eye(3)
        >>> float(sample_wise(logits, logits, np.arange(3)))
        0.0

    References:
        Q. Wang, J. Zhou, arXiv:2411.10693, 2024. B. Zhao et al., "Decoupled Knowledge
        Distillation", CVPR 2022.
    """
    rows = (student_logits, teacher_logits, labels, sample_weight, where)
    return evaluate("sample_wise", rows, config, {"sample": 1.0}, keys=keys, reduction=reduction)


def category_wise(
    student_logits: list[Any] | Float[Tensor, "batch classes"],
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    keys: TeacherKeys | None = None,
    class_prior: Float[Array, " classes"] | None = None,
    pairs: Bool[Array, "batch keys"] | None = None,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Array | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Contrast each student row with all keys, those of its label being the positives.

    ``L_cat,i = log Σ_k exp S_ik - Σ_j w_ij S_ij``, ``w_ij = A_ij / Σ_k A_ik``, 0 where no key
    shares the label. ``config.category_contrast`` chooses keys that are one a class
    (``"prototypes"``) or the columns of the batch (``"columns"``) instead. A reconstruction;
    arguments, result and errors as in `mcld_core.mcld_loss`.

    Example:
        >>> import numpy as np
        >>> logits = np.eye(2)
        >>> round(float(category_wise(logits, 20 * logits, np.arange(2))), 4)
        0.3133

    References:
        Q. Wang, J. Zhou, arXiv:2411.10693, 2024. P. Khosla et al., "Supervised Contrastive
        Learning", NeurIPS 2020.
    """
    rows = (student_logits, teacher_logits, labels, sample_weight, where)
    return evaluate(
        "category_wise", rows, config, {"category": 1.0}, keys=keys, class_prior=class_prior,
        pairs=pairs, reduction=reduction,
    )  # fmt: skip

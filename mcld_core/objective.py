"""The total objective: `mcld_loss` and its settings `MCLDConfig`."""

from __future__ import annotations

from typing import Any

from mcld_core.backends import Backend, backend_for
from mcld_core.batch import Batch, check_reduction, keep_rows, prepare, reduce_rows
from mcld_core.config import MCLDConfig
from mcld_core.contrast import column_rows
from mcld_core.keys import TeacherKeys, contrast_with, contrast_with_prototypes, prepare_keys
from mcld_core.rows import Shared, Weights, block_rows, is_zero
from mcld_core.schedule import category_ramp, number
from mcld_core.similarity import default_temperature
from mcld_core.typing import Array, Float, Labels, Logits, Reduction, Scalar


def mcld_loss(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    keys: TeacherKeys | None = None,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, "batch"] | None = None,  # noqa: F821
    where: Array | None = None,
    reduction: Reduction = "mean",
    return_terms: bool = False,
) -> Any:
    """Contrast a student's logits with a teacher's: instance-, sample- and category-wise.

    ``L_i = w_ins L_ins,i + w_sam L_sam,i + ramp w_cat L_cat,i + w_ce L_ce,i``, a reconstruction
    from the description of the method (its equations could not be read). With
    ``S_ij = <s_i, softmax(t_j)>``, keys j = 1 … N and the label affinity A:

    - instance-wise: InfoNCE whose positive is the teacher's row of the same sample; rows of the
      same label are no negatives (the target mask);
    - category-wise: one anchor against all keys, those of its label being the positives;
    - sample-wise: the decoupled divergence within one row of logits, times T².

    Args:
        student_logits: (batch, classes), any float dtype. Half precision is computed in float32,
            and its gradient comes back in half precision.
        teacher_logits: (batch, classes), any float dtype; never receives a gradient.
        labels: (batch,) int, or (batch, classes) soft (rows sum to 1), or None: the teacher's
            arg max stands for the label.
        config: the settings.
        keys: all teacher rows to contrast with; None: the batch's own.
        progress: the part of the training that is done, 0 to 1; drives the ramp.
        sample_weight: (batch,) ≥ 0.
        where: (batch,) bool, True = keep. A dropped row is neither anchor nor key.
        reduction: ``"mean"`` (Σ v L / Σ v), ``"sum"`` or ``"none"`` ((batch,) of v L), with v
            the sample weight of the kept rows.
        return_terms: also return the parts.

    Returns:
        The loss, float32 (float64 for float64 logits). With ``return_terms`` a pair of it and a
        dict: ``"instance"``, ``"sample"``, ``"category"`` (``"ce"`` when used), each without its
        weight and ramp but with the same reduction, and ``"ramp"``; all without gradient.

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> student, teacher = np.eye(3), 5 * np.eye(3)
        >>> round(float(mcld_loss(student, teacher, np.arange(3))), 4)
        1.6371

    References:
        Q. Wang, J. Zhou, "Multi-perspective Contrastive Logit Distillation", arXiv:2411.10693,
        2024. B. Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022 (sample-wise term).
    """
    weights = Weights(
        config.weight_instance, config.weight_sample, config.weight_category, config.weight_ce
    )
    return evaluate(
        "mcld_loss",
        student_logits,
        teacher_logits,
        labels,
        config=config,
        weights=weights,
        keys=keys,
        progress=progress,
        sample_weight=sample_weight,
        where=where,
        reduction=reduction,
        return_terms=return_terms,
    )


def evaluate(
    function: str,
    student_logits: Any,
    teacher_logits: Any,
    labels: Any,
    *,
    config: MCLDConfig,
    weights: Weights,
    keys: TeacherKeys | None,
    progress: Scalar,
    sample_weight: Any,
    where: Any,
    reduction: Reduction,
    return_terms: bool = False,
) -> Any:
    """Compute the weighted terms: the one path that all public losses of the method take."""
    check_reduction(function, reduction)
    key_arrays = () if keys is None else (keys.logits, keys.labels, keys.where, keys.prototypes)
    ops = backend_for(
        function, student_logits, teacher_logits, labels, sample_weight, where, *key_arrays
    )
    batch = prepare(
        function,
        ops,
        student_logits,
        teacher_logits,
        labels,
        sample_weight,
        where,
        config.ignore_index,
    )
    student = batch.student
    ramp = category_ramp(ops, progress, config.category_warmup, student)
    columns = config.category_contrast == "columns" and not is_zero(weights.category)
    normalizer = None if keys is None else keys.normalizer
    if columns and normalizer is not None:
        raise ValueError(
            f"{function}: category_contrast='columns' cannot be used with gathered keys "
            "(its student side would have to cross replicas); use 'labels' or 'prototypes'"
        )
    shared, own_start = _share(function, ops, batch, keys, config, weights, ramp)
    own = ops.arange(ops.size(student, 0), student) + own_start
    rows = (student, batch.teacher, batch.labels, own)
    if batch.kept is not None:
        rows = (*rows, batch.kept)

    def block(rows: tuple[Array, ...], shared: Shared, gradient: bool) -> tuple[Array, ...]:
        return block_rows(ops, config, rows, shared, gradient)

    total, instance, sample, category, ce = ops.map_rows(
        block, rows, shared, _block_rows_at_once(config, shared)
    )
    if columns:
        category = column_rows(
            ops,
            keep_rows(ops, student, batch.kept),
            keep_rows(ops, batch.teacher, batch.kept),
            batch.kept,
            config.key_temperature,
        )
        total = total + shared.weights.category * category
    loss = reduce_rows(ops, total, batch.weight, reduction, normalizer)
    if not return_terms:
        return loss
    terms = {"instance": instance, "sample": sample, "category": category}
    if not is_zero(weights.ce):
        terms["ce"] = ce
    reduced = {
        name: ops.stop_gradient(reduce_rows(ops, rows, batch.weight, reduction, normalizer))
        for name, rows in terms.items()
    }
    return loss, {**reduced, "ramp": ops.stop_gradient(ramp)}


def _share(
    function: str,
    ops: Backend,
    batch: Batch,
    keys: TeacherKeys | None,
    config: MCLDConfig,
    weights: Weights,
    ramp: Array,
) -> tuple[Shared, Any]:
    """Prepare what all rows share, leaving out what no term needs."""
    by_labels = not is_zero(weights.category) and config.category_contrast == "labels"
    by_prototype = not is_zero(weights.category) and config.category_contrast == "prototypes"
    contrast = prototypes = None
    own_start: Any = 0
    if by_labels or by_prototype or not is_zero(weights.instance):
        logits, labels, kept, own_start = prepare_keys(
            function, ops, batch, keys, config.ignore_index
        )
        if by_labels or not is_zero(weights.instance):
            contrast = contrast_with(ops, logits, labels, kept, config)
        if by_prototype:
            prototypes = contrast_with_prototypes(function, ops, keys, logits, labels, config)
    temperature = config.temperature
    if temperature is None:
        temperature = default_temperature(config.similarity, batch.student.shape[1])
    like = batch.student

    def array(value: Scalar) -> Scalar:
        return value if isinstance(value, (int, float)) else number(ops, value, like)

    shared = Shared(
        keys=contrast,
        prototypes=prototypes,
        weights=Weights(
            array(weights.instance),
            array(weights.sample),
            0.0 if is_zero(weights.category) else array(weights.category) * ramp,
            array(weights.ce),
        ),
        temperature=array(temperature),
        sample_temperature=array(config.sample_temperature),
        beta=array(config.beta),
    )
    return shared, own_start


def _block_rows_at_once(config: MCLDConfig, shared: Shared) -> int | None:
    return None if config.block_size == "auto" else config.block_size  # type: ignore[return-value]

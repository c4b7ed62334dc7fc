"""The total objective: `mcld_loss` and its settings `MCLDConfig`."""

from __future__ import annotations

from typing import Any

from mcld_core.arguments import (
    Batch,
    check_reduction,
    keep_rows,
    prepare,
    reduce_rows,
    rows_at_once,
)
from mcld_core.backends import Backend, backend_for
from mcld_core.config import MCLDConfig
from mcld_core.formulas.contrast import bounded, column_rows
from mcld_core.formulas.objective import (
    TERMS,
    Apart,
    Shared,
    Weights,
    block_rows,
    is_present,
    is_zero,
)
from mcld_core.formulas.similarity import default_temperature, embed, key_vectors
from mcld_core.keys import TeacherKeys, check_keys, prepare_keys, prototype_rows
from mcld_core.schedule import category_ramp, check_progress, number
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
        1.6071

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
    apart: Apart | None = None,
) -> Any:
    """Compute the weighted terms: the one path that all losses of rows of logits take."""
    check_reduction(function, reduction)
    check_keys(function, keys)
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
    return evaluate_batch(
        function,
        ops,
        batch,
        config=config,
        weights=weights,
        keys=keys,
        progress=progress,
        reduction=reduction,
        return_terms=return_terms,
        apart=apart,
    )


def evaluate_batch(
    function: str,
    ops: Backend,
    batch: Batch,
    *,
    config: MCLDConfig,
    weights: Weights,
    keys: TeacherKeys | None = None,
    progress: Scalar = 1.0,
    reduction: Reduction = "mean",
    return_terms: bool = False,
    apart: Apart | None = None,
) -> Any:
    """Compute the weighted terms of rows that are checked and converted.

    Int labels may lie outside the classes here (ids of anything): the contrasts by ``"labels"``
    only compare them. ``apart`` names keys that are no negatives for another reason than a label.
    """
    check_progress(function, ops, progress, batch.student)
    ramp = category_ramp(ops, progress, config.category_warmup, batch.dtype, like=batch.student)
    normalizer = None if keys is None else keys.normalizer
    with_ce = not is_zero(weights.ce)
    if isinstance(batch.student.shape[0], int) and batch.student.shape[0] == 0:
        weights = Weights()  # no rows, no terms
    columns = is_present(config, weights, "columns")
    if columns and normalizer is not None:
        raise ValueError(
            f"{function}: category_contrast='columns' cannot be used with gathered keys "
            "(its student side would have to cross replicas); use 'labels' or 'prototypes'"
        )
    shared, own = _share(function, ops, batch, keys, config, weights, ramp)
    shared = shared._replace(apart=apart)
    rows = (batch.student, batch.teacher, batch.labels, own)

    def embed_shared(shared: Shared) -> Shared:
        return _embed_shared(ops, config, batch.dtype, shared)

    def block(rows: tuple[Array, ...], shared: Shared, gradient: bool) -> tuple[Array, ...]:
        return block_rows(ops, config, batch.dtype, rows, shared, gradient)

    keys_count = 1 if shared.keys is None else ops.size(shared.keys.vectors, 0)
    total, *terms = ops.map_rows(
        block,
        embed_shared,
        rows if batch.kept is None else (*rows, batch.kept),
        shared,
        rows_at_once(ops, config.block_size, keys_count, batch.student.shape[1]),
    )
    rows_of = dict(zip(TERMS, terms, strict=True))
    if columns:
        rows_of["category"] = _column_rows(ops, batch, config)
        total = total + shared.weights.category * rows_of["category"]
    loss = reduce_rows(ops, total, batch, reduction, normalizer)
    if not return_terms:
        return loss
    reduced = {
        name: ops.stop_gradient(reduce_rows(ops, rows, batch, reduction, normalizer))
        for name, rows in rows_of.items()
        if name != "ce" or with_ce
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
) -> tuple[Shared, Array]:
    """Return what all rows share, less what no term needs, and where each row's own key is."""
    key_rows = prototypes = None
    own = ops.arange(ops.size(batch.student, 0), batch.student)
    by_prototype = is_present(config, weights, "prototypes")
    by_key = is_present(config, weights, "labels") or not is_zero(weights.instance)
    if by_key or by_prototype:
        all_keys, own_start = prepare_keys(function, ops, batch, keys, config.ignore_index)
        own = own + own_start
        key_rows = all_keys if by_key else None
        if by_prototype:
            prototypes = prototype_rows(function, ops, batch, keys, all_keys, config)

    def scalar(value: Scalar) -> Scalar:
        is_number = isinstance(value, (int, float))
        return value if is_number else number(ops, value, batch.dtype, like=batch.student)

    temperature = config.temperature
    if temperature is None:
        temperature = default_temperature(config.similarity, batch.student.shape[1])
    shared = Shared(
        keys=key_rows,
        prototypes=prototypes,
        weights=Weights(
            scalar(weights.instance),
            scalar(weights.sample),
            0.0 if is_zero(weights.category) else scalar(weights.category) * ramp,
            scalar(weights.ce),
        ),
        temperature=scalar(temperature),
        key_temperature=scalar(config.key_temperature),
        sample_temperature=scalar(config.sample_temperature),
        beta=scalar(config.beta),
    )
    return shared, own


def _embed_shared(ops: Backend, config: MCLDConfig, dtype: str, shared: Shared) -> Shared:
    """Embed the keys once for all blocks; prototypes are class means, so no softmax again."""
    keys, prototypes = shared.keys, shared.prototypes
    if keys is not None:
        logits = keep_rows(ops, ops.astype(keys.vectors, dtype), keys.kept)
        vectors = key_vectors(ops, logits, config.similarity, shared.key_temperature)
        keys = keys._replace(vectors=vectors)
    if prototypes is not None and config.similarity != "probability":
        means = embed(ops, prototypes.vectors, config.similarity).rows
        prototypes = prototypes._replace(vectors=means)
    return shared._replace(keys=keys, prototypes=prototypes)


def _column_rows(ops: Backend, batch: Batch, config: MCLDConfig) -> Array:
    student, teacher = (
        keep_rows(ops, ops.astype(logits, batch.dtype), batch.kept)
        for logits in (batch.student, batch.teacher)
    )
    student = bounded(ops, student)
    return column_rows(ops, student, teacher, batch.kept, config.key_temperature)

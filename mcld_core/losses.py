"""The objective `mcld_loss`, and the one path on which all losses of logits are evaluated.

Its three terms as losses of their own are in `mcld_core.terms`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

from mcld_core.arguments import Arguments, Batch, as_number, is_number, keep_rows, reduce_rows
from mcld_core.backends import Backend
from mcld_core.config import MCLDConfig, check_config
from mcld_core.formulas.contrast import column_contrast
from mcld_core.formulas.divergence import raised
from mcld_core.formulas.objective import (
    TERMS,
    Block,
    ExcludedKeys,
    KeySet,
    Setup,
    TermWeights,
    is_present,
    is_zero,
    weighted_terms,
)
from mcld_core.formulas.similarity import default_temperature, key_vectors
from mcld_core.formulas.stored import StoredRows, of_parts, parts_of, stored_keys
from mcld_core.keys import (
    TeacherKeys,
    check_keys,
    key_arrays,
    prepare_keys,
    prototype_keys,
)
from mcld_core.typing import Array, Bool, Float, Labels, Logits, Reduction, Scalar, Tensor


@overload
def mcld_loss(
    student_logits: list[Any] | Float[Tensor, "batch classes"],
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    keys: TeacherKeys | None = None,
    class_prior: Float[Array, " classes"] | None = None,
    pairs: Bool[Array, "batch keys"] | None = None,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Array | None = None,
    reduction: Reduction = "mean",
    return_terms: Literal[False] = False,
) -> Tensor: ...


@overload
def mcld_loss(
    student_logits: list[Any] | Float[Tensor, "batch classes"],
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    return_terms: Literal[True],
    **settings: Any,
) -> tuple[Tensor, dict[str, Tensor]]: ...


@overload
def mcld_loss(*rows: Any, return_terms: bool, **settings: Any) -> Any: ...


def mcld_loss(  # type: ignore[misc]  # ``settings`` are the ones here
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    keys: TeacherKeys | None = None,
    class_prior: Float[Array, " classes"] | None = None,
    pairs: Bool[Array, "batch keys"] | None = None,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Array | None = None,
    reduction: Reduction = "mean",
    return_terms: bool = False,
) -> Any:
    """Contrast a student's logits with a teacher's: instance-, sample- and category-wise.

    ``L_i = w_ins L_ins,i + w_sam L_sam,i + ramp w_cat L_cat,i + w_ce L_ce,i``, a reconstruction
    from the description of the method (its equations could not be read). With
    ``S_ij = <s_i, softmax(t_j)>``, keys j = 1 … N and the label affinity A:

    - instance-wise: InfoNCE whose positive is the teacher's row of the same sample; rows of the
      same label do not push (the target mask);
    - category-wise: one student's row is compared with all keys; those of its label pull;
    - sample-wise: the decoupled divergence within one row of logits, times T².

    Args:
        student_logits: (batch, classes), any float dtype. Half precision is computed in float32,
            and its gradient comes back in half precision.
        teacher_logits: (batch, classes), any float dtype; never receives a gradient.
        labels: (batch,) int, or (batch, classes) soft (rows sum to 1), or None: the teacher's
            most likely class stands for the label. Where no term takes a label for a class
            (no sample-wise term, cross-entropy or prototypes) any ids ≥ 0, or soft labels of any
            width.
        config: the settings.
        keys: all teacher rows to contrast with; None: the batch's own.
        class_prior: (classes,) ≥ 0, how often each class stands among the keys, as counts or
            probabilities π. The contrasts whose keys are rows then see ``s - log π``, so that
            they estimate the same classifier as the other terms where classes are uneven. The
            prototypes and columns of ``config.category_contrast`` need no correction and get none.
            None: no correction, right for even classes.
        pairs: (batch, keys) bool, True = the row is compared with the key, as an attention mask
            says it; as wide as ``keys`` (or the batch). A key that a row is not compared with
            neither pulls nor pushes it. The own key always counts. Prototypes and columns, which
            are no rows, take no notice. None: each row is compared with all keys.
        progress: the part of the training that is done, 0 to 1; drives the ramp.
        sample_weight: (batch,) ≥ 0.
        where: (batch,) bool, True = keep. A dropped row is compared with nothing.
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
    check_config("mcld_loss", config)
    objective = Objective(config, term_weights(config), keys, class_prior, progress, pairs=pairs)
    rows = (student_logits, teacher_logits, labels, sample_weight, where)
    return evaluate("mcld_loss", rows, objective, reduction, return_terms)


class Objective(NamedTuple):
    """What to compute: the settings, the weights of the terms, and what comes beside the batch."""

    config: MCLDConfig
    weights: TermWeights
    keys: TeacherKeys | None = None
    class_prior: Any = None
    progress: Scalar = 1.0
    excluded: ExcludedKeys | None = None
    factors: Float[Array, "batch terms"] | None = None
    """What each row's terms are multiplied by, in the order of `TERMS`."""
    normalizer: Scalar | None = None
    """What ``"mean"`` divides by, unless the keys say it; None: Σ v."""
    has_ramp: bool = True
    """Whether the category-wise term comes in with the progress."""
    trains_keys: bool = False
    """Whether the batch's teacher rows get a gradient, as keys."""
    pairs: Bool[Array, "batch keys"] | None = None
    """Which keys each row is compared with, besides its own; None: with all."""


def term_weights(config: MCLDConfig) -> TermWeights:
    """Return the weights of the settings."""
    return TermWeights(*[getattr(config, f"weight_{name}") for name in TERMS])


def labels_are_compared(config: MCLDConfig, weights: TermWeights) -> bool:
    """Whether no term takes a label for the place of a class, so that it may be any id."""
    by_class = is_present(config, weights, "prototypes")
    return is_zero(weights.sample) and is_zero(weights.ce) and not by_class


def evaluate(
    function: str,
    rows: tuple[Any, Any, Any, Any, Any],
    objective: Objective,
    reduction: Reduction,
    return_terms: bool = False,
) -> Any:
    """Check the rows and compute the weighted terms: the one path of all losses of logits.

    ``rows`` are student logits, teacher logits, labels, sample weight and ``where``.
    """
    config, keys = objective.config, objective.keys
    check_config(function, config)
    check_keys(function, keys)
    arguments = Arguments(function, *rows, objective.pairs, *key_arrays(keys))
    arguments.reduction(reduction)
    arguments.flag("return_terms", return_terms)
    compared = labels_are_compared(config, objective.weights)
    batch = arguments.batch(rows, config.ignore_index, compared)
    return evaluate_batch(arguments, batch, objective, reduction, return_terms)


def evaluate_batch(
    arguments: Arguments,
    batch: Batch,
    objective: Objective,
    reduction: Reduction = "mean",
    return_terms: bool = False,
) -> Any:
    """Compute the weighted terms of rows that are checked and converted.

    Int labels may lie outside the classes here (ids of anything): the contrasts by ``"labels"``
    only compare them.
    """
    ops, config, weights = arguments.ops, objective.config, objective.weights
    ramp = category_ramp(arguments, objective, batch)
    by_rows = is_present(config, weights, "labels") or not is_zero(weights.instance)
    if objective.pairs is not None and not by_rows:
        raise ValueError(
            f"{arguments.function}: pairs need a term that compares rows (the instance-wise one, "
            "or the category-wise one by category_contrast='labels'); got none. Leave them out"
        )
    if isinstance(batch.student.shape[0], int) and batch.student.shape[0] == 0:
        weights = TermWeights()  # no rows, no terms
    normalizer = None if objective.keys is None else objective.keys.normalizer
    columns = is_present(config, weights, "columns")
    if columns and normalizer is not None:
        raise ValueError(
            f"{arguments.function}: category_contrast='columns' cannot be used with gathered keys "
            "(its student side would have to cross replicas); use 'labels' or 'prototypes'"
        )
    name = "normalizer" if normalizer is None else "keys.normalizer"
    normalizer = objective.normalizer if normalizer is None else normalizer
    if normalizer is not None:
        normalizer = arguments.scalar(name, normalizer, batch.student, batch.dtype)
    setup, beside = _setup(arguments, batch, objective._replace(weights=weights), ramp)
    shown = TERMS if return_terms else ()
    total, *values = _by_block(ops, batch, beside, objective, setup, shown)
    terms = dict(zip(shown, values, strict=True))
    if columns:
        terms["category"] = _columns(ops, batch, config)
        weighted = setup.weights.category * terms["category"]
        if objective.factors is not None:
            weighted = weighted * objective.factors[:, TERMS.index("category")]
        total = total + weighted
    loss = reduce_rows(ops, total, batch.weight, reduction, normalizer)
    if not return_terms:
        return loss
    reduced = {
        name: ops.stop_gradient(reduce_rows(ops, value, batch.weight, reduction, normalizer))
        for name, value in terms.items()
        if name != "ce" or not is_zero(objective.weights.ce)
    }
    ramp = ops.astype(ops.asarray(ramp, batch.student), batch.dtype)
    return loss, {**reduced, "ramp": ops.stop_gradient(ramp)}


def _setup(
    arguments: Arguments, batch: Batch, objective: Objective, ramp: Scalar
) -> tuple[Setup, dict[str, Array]]:
    """Return what all rows have in common, less what no term needs, and what each has besides."""
    ops, config, weights = arguments.ops, objective.config, objective.weights
    keys = prototypes = log_prior = None
    own = ops.arange(ops.size(batch.student, 0), batch.student)
    beside = {"labels": batch.labels, "kept": batch.kept, "factors": objective.factors}
    by_prototype = is_present(config, weights, "prototypes")
    by_key = is_present(config, weights, "labels") or not is_zero(weights.instance)
    if by_key or by_prototype:
        compared = labels_are_compared(config, weights)
        all_keys, own_start = prepare_keys(arguments, batch, objective.keys, config, compared)
        own = own if objective.keys is None else own + own_start
        if by_key:
            keys, count = all_keys, all_keys.labels.shape[0]
            beside["pairs"] = arguments.pairs("pairs", objective.pairs, batch.student, count)
        if by_prototype:
            prototypes = prototype_keys(arguments, batch, objective.keys, all_keys, config)
    if objective.class_prior is not None:
        classes = batch.student.shape[1]
        log_prior = arguments.log_prior(objective.class_prior, classes, batch.student, batch.dtype)

    def number(value: Scalar) -> Scalar:
        return as_number(ops, value, batch.student, batch.dtype)

    temperature = config.temperature
    if temperature is None:
        temperature = default_temperature(config.similarity, batch.student.shape[1])
    instance, sample, category, ce = map(number, weights)
    category = 0.0 if is_zero(category) else category * ramp
    return Setup(
        keys=keys,
        prototypes=prototypes,
        weights=TermWeights(instance, sample, category, ce),
        temperature=number(temperature),
        key_temperature=number(config.key_temperature),
        sample_temperature=number(config.sample_temperature),
        beta=number(config.beta),
        log_prior=log_prior,
        excluded=objective.excluded,
    ), {"own": own, **{name: x for name, x in beside.items() if x is not None}}


def _by_block(
    ops: Backend,
    batch: Batch,
    beside: dict[str, Array],
    objective: Objective,
    setup: Setup,
    shown: tuple[str, ...],
) -> tuple[Array, ...]:
    """Evaluate the total of all rows, and the terms that are shown, block after block."""
    config = objective.config
    of_teacher, is_stored = parts_of(batch.teacher), isinstance(batch.teacher, StoredRows)

    def terms(rows: tuple[Array, ...], setup: Setup) -> tuple[Array, ...]:
        end = 1 + len(of_teacher)
        others = dict(zip(beside, rows[end:], strict=True))
        block = Block(rows[0], of_parts(batch.teacher, rows[1:end]), **others)
        return weighted_terms(ops, config, batch.dtype, block, setup, shown)

    block_rows: Any = None
    numbers = (*objective.weights, *setup[3:7])
    if not any(ops.is_trained(x) for x in numbers):
        keys_count = 1 if setup.keys is None else ops.size(setup.keys.labels, 0)
        count, classes = ops.size(batch.student, 0), batch.student.shape[1]
        block_rows, least = config.block_size, 64 if is_stored else ops.least_rows
        if block_rows == "auto":
            block_rows = rows_of_a_block(ops, count, keys_count, classes, least)
    rows = (batch.student, *of_teacher, *beside.values())

    def prepare(setup: Setup) -> Setup:
        return _embed_keys(ops, config, batch.dtype, batch.student.shape[1], setup)

    def of_keys(rows: tuple[Array, ...], trained: tuple[Array, ...]) -> tuple[Array, ...]:
        keys: Any = setup.keys
        return terms(rows, prepare(setup._replace(keys=keys._replace(vectors=trained[0]))))

    if objective.trains_keys and setup.keys is not None:
        return ops.by_block_twice(of_keys, rows, (setup.keys.vectors,), block_rows)
    return ops.by_block(terms, prepare, rows, setup, block_rows)


def rows_without_keys(classes: int) -> int:
    """Return how many rows a block has where nothing is multiplied: about 4 MB, at least 64."""
    return max(2**20 // max(classes, 1), 64)


def rows_of_a_block(ops: Backend, rows: Any, keys: Any, classes: int, least: int) -> Any:
    """Return how many anchor rows a block has: all where they and the keys are few.

    The plain form is the fastest where its largest array takes less than 4 MB (a larger one is
    asked of the system in each call). Otherwise a block has 256 rows, or, where 4 MB hold fewer, as
    many as they hold, but at least ``least``.
    """
    if isinstance(rows, int) and isinstance(keys, int):
        whole = 2**20 // max(keys, classes, 1)
        return whole if rows < whole else max(min(whole, 256), least)
    whole = 2**20 // ops.maximum(keys, classes)
    return ops.where(rows < whole, whole, ops.maximum(ops.minimum(whole, 256), least))


def _embed_keys(ops: Backend, config: MCLDConfig, dtype: str, classes: int, setup: Setup) -> Setup:
    """Embed the keys once for all blocks."""

    def embedded(keys: KeySet | None) -> KeySet | None:
        if keys is None:
            return None
        if isinstance(keys.vectors, StoredRows):
            stored = stored_keys(ops, keys.vectors, dtype, classes, setup.key_temperature)
            return keys._replace(vectors=stored)
        vectors = ops.astype(keys.vectors, dtype)
        if not keys.is_ready:
            vectors = keep_rows(ops, vectors, keys.kept)
            vectors = key_vectors(ops, vectors, config.similarity, setup.key_temperature)
        return keys._replace(vectors=vectors)

    return setup._replace(keys=embedded(setup.keys), prototypes=embedded(setup.prototypes))


def _columns(ops: Backend, batch: Batch, config: MCLDConfig) -> Float[Array, " batch"]:
    student, teacher = (
        keep_rows(ops, ops.astype(logits, batch.dtype), batch.kept)
        for logits in (batch.student, batch.teacher)
    )
    return column_contrast(ops, raised(ops, student), teacher, batch.kept, config.key_temperature)


def category_ramp(arguments: Arguments, objective: Objective, batch: Batch) -> Scalar:
    """Return ``clip(progress / warmup, 0, 1)``, without a gradient; 1 where ``warmup`` is 0.

    A call without a schedule gets the Python number 1.

    Raises:
        ValueError, TypeError: a progress that is not one number in 0 … 1.
    """
    ops, like, dtype = arguments.ops, batch.student, batch.dtype
    warmup, progress = objective.config.category_warmup, objective.progress
    whole = type(progress) in (int, float) and progress == 1 and is_number(warmup) and warmup <= 1
    if whole or not objective.has_ramp:
        return 1.0
    progress = arguments.scalar("progress", progress, like, dtype, maximum=1.0)
    if is_number(warmup):
        part = progress / warmup if warmup > 0 else 0.0 * progress + 1.0
    else:
        warmup = ops.astype(ops.asarray(warmup, like), dtype)
        part = progress / ops.where(warmup > 0, warmup, 1.0)
        part = ops.where(warmup > 0, part, 1.0)
    return ops.stop_gradient(ops.minimum(ops.maximum(part, 0.0), 1.0))

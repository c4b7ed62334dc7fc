"""The objective `mcld_loss`, and the one path on which all losses of logits are evaluated.

Its three terms as losses of their own are in `mcld_core.terms`.
"""

from __future__ import annotations

from typing import Any, Literal, overload

from mcld_core.arguments import REDUCTIONS, Arguments, Batch, Checks, clip01, reduce_rows
from mcld_core.config import MCLDConfig
from mcld_core.formulas.objective import (
    CONTRASTS,
    TERMS,
    Block,
    KeySet,
    Setup,
    by_block,
    column_contrast,
    rows_of_a_block,
    weighted_terms,
)
from mcld_core.formulas.similarity import SIMILARITIES
from mcld_core.keys import TeacherKeys, key_arrays, prepare_keys, prototype_keys
from mcld_core.logits import log_prior
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
    - sample-wise: DKD's decoupled divergence within one row of logits, times T².

    Both are logits, before any softmax, which is not checked here: probabilities give a loss too,
    and a poor one. `mcld_core.check_finite` warns of them, as the adapters do at their first step.

    Args:
        student_logits: (batch, classes), any float dtype. Half precision is computed in float32,
            and its gradient comes back in half precision.
        teacher_logits: (batch, classes), any float dtype; never receives a gradient.
        labels: (batch,) int, or (batch, classes) soft (rows sum to 1), or None: the teacher's
            most likely class stands for the label, and ``config.weight_ce`` has to be 0. Where no
            term takes a label for a class (no sample-wise term, cross-entropy or prototypes) any
            ids ≥ 0, or soft labels of any width.
        config: the settings.
        keys: all teacher rows to contrast with; None: the batch's own.
        class_prior: (classes,) ≥ 0, how often each class stands among the keys, as counts or
            probabilities π. The contrasts whose keys are rows then see ``s - log π``, so that
            they estimate the same classifier as the other terms under class imbalance. The
            prototypes and columns of ``config.category_contrast`` need no correction and get none.
            None: no correction, right for balanced classes.
        pairs: (batch, keys) bool, True = the row is compared with the key, as an attention mask
            says it; as wide as ``keys`` (or the batch). A key that a row is not compared with
            neither pulls nor pushes it. The own key always counts. Prototypes and columns, which
            are not rows, take no notice. None: each row is compared with all keys.
        progress: the part of the training that is done, 0 to 1; drives the warm-up of the
            category-wise term.
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
    if progress is None:  # which `evaluate` takes for no warm-up
        Checks("mcld_loss").number("progress", progress, minimum=0.0, maximum=1.0)
    weights = {name: getattr(config, f"weight_{name}", 0.0) for name in TERMS}
    rows = (student_logits, teacher_logits, labels, sample_weight, where)
    return evaluate(
        "mcld_loss", rows, config, weights, keys=keys, class_prior=class_prior, pairs=pairs,
        progress=progress, reduction=reduction, return_terms=return_terms,
    )  # fmt: skip


def evaluate(
    function: str,
    rows: tuple[Any, Any, Any, Any, Any],
    config: MCLDConfig,
    weights: dict[str, Scalar],
    *,
    keys: TeacherKeys | None = None,
    class_prior: Float[Array, " classes"] | None = None,
    pairs: Bool[Array, "batch keys"] | None = None,
    progress: Scalar | None = None,
    reduction: Reduction = "mean",
    return_terms: bool = False,
) -> Any:
    """Check the rows and compute the weighted terms: the one path of all losses of logits.

    ``rows`` are student logits, teacher logits, labels, sample weight and ``where``; ``weights``
    those of the terms, by name. Without ``progress`` the category-wise term has no warm-up.
    """
    if not isinstance(config, MCLDConfig):
        Checks(function).settings(config, MCLDConfig)
    of_keys = () if keys is None else key_arrays(function, keys)
    arguments = Arguments(function, *rows, pairs, *of_keys)
    if not (isinstance(reduction, str) and reduction in REDUCTIONS):
        arguments.reduction(reduction)
    if not isinstance(return_terms, bool):
        arguments.flag("return_terms", return_terms)
    # a weight of 0 leaves its term out, but NumPy's float64 (a ramp, say) does not
    weights = {k: w for k, w in weights.items() if type(w) not in (int, float) or w != 0}
    if rows[2] is None and "ce" in weights:
        needs = "labels are needed where config.weight_ce is above 0"
        raise arguments.wrong(needs, None, "Pass them, or leave weight_ce at 0")
    category = config.category_contrast if "category" in weights else None
    is_compared = CONTRASTS.issuperset(weights) and category != "prototypes"
    batch = arguments.batch(rows, config.ignore_index, is_compared)
    ramp = category_ramp(arguments, config, progress, batch)
    if pairs is not None and "instance" not in weights and category != "labels":
        needs = "pairs need a term that compares rows (the instance-wise one, or the category-wise"
        needs += " one by category_contrast='labels')"
        raise arguments.wrong(needs, "none", "Leave them out")
    normalizer = None if keys is None else keys.normalizer
    if normalizer is not None:
        if category == "columns":
            raise ValueError(
                f"{function}: category_contrast='columns' cannot be used with gathered keys (its "
                "student side would have to cross replicas); use 'labels' or 'prototypes'"
            )
        normalizer = arguments.scalar("keys.normalizer", normalizer, batch.student, batch.dtype)

    ops, dtype, has_ce = arguments.ops, batch.dtype, "ce" in weights
    if isinstance(batch.student.shape[0], int) and batch.student.shape[0] == 0:
        weights = {}  # no rows, no terms
    setup, block, block_rows = _setup(
        arguments, batch, config, weights, keys, class_prior, pairs, is_compared
    )
    weights, of_columns = dict(setup.weights), None
    if "category" in weights and ramp is not None:
        weights["category"] = weights["category"] * ramp
    if category == "columns":
        of_columns = weights.pop("category", None)
    shown = tuple(name for name in TERMS if name != "ce" or has_ce) if return_terms else ()
    total, *values = by_block(
        ops, lambda block, setup: weighted_terms(ops, block, setup, shown),
        lambda setup: setup.embedded(ops, dtype),  # which does not hold the batch
        block, dtype, setup._replace(weights=weights), block_rows,
    )  # fmt: skip
    found = dict(zip(shown, values, strict=True))
    if of_columns is not None:
        (columns,) = by_block(
            ops, lambda block, t: (column_contrast(ops, block, t),), lambda t: t,
            block, batch.dtype, setup.key_temperature, None,
        )  # fmt: skip
        total, found = total + of_columns * columns, found | {"category": columns}
    loss = reduce_rows(ops, total, batch.weight, reduction, normalizer)
    if not return_terms:
        return loss
    for name, value in found.items():
        value = reduce_rows(ops, value, batch.weight, reduction, normalizer)
        found[name] = ops.stop_gradient(value)
    ramp = ops.asarray(1.0 if ramp is None else ramp, batch.student)
    return loss, found | {"ramp": ops.stop_gradient(ops.astype(ramp, batch.dtype))}


def _setup(
    arguments: Arguments,
    batch: Batch,
    config: MCLDConfig,
    weights: dict[str, Scalar],
    keys: TeacherKeys | None,
    class_prior: Any,
    pairs: Any,
    is_compared: bool,
) -> tuple[Setup, Block, Any]:
    """Return what all rows have in common, less what no term needs, the rows, and a block's number.

    None rows in a block: all, which a number that is trained needs.
    """
    ops, student, block_rows = arguments.ops, batch.student, config.block_size
    rows = ops.size(student, 0)
    category = config.category_contrast if "category" in weights else None
    by_row = "instance" in weights or category == "labels"
    key_set: Any = None
    prototypes = prior = None
    own = ops.arange(rows, student)
    if not by_row and category != "prototypes":
        pairs = None
    elif keys is None:
        key_set = KeySet.of(ops, batch.teacher, batch.labels, batch.kept)
    else:
        key_set, own_start = prepare_keys(arguments, batch, keys, config, is_compared)
        own = own + own_start
    if category == "prototypes":
        prototypes = prototype_keys(arguments, batch, keys, key_set, config)
    if pairs is not None:
        shape, each = (student.shape[0], key_set.labels.shape[0]), "(batch, keys), one entry a pair"
        meaning = "the row is compared with the key"
        pairs = arguments.mask("pairs", pairs, student, shape, each, meaning)
    if class_prior is not None:
        prior = log_prior(arguments, class_prior, student, batch.dtype)
    temperature = config.temperature
    if temperature is None:
        temperature = SIMILARITIES[config.similarity].temperature or float(student.shape[1])
    numbers = weights | {
        "temperature": temperature,
        "key_temperature": config.key_temperature,
        "sample_temperature": config.sample_temperature,
        "beta": config.beta,
    }
    for name, x in numbers.items():
        if not isinstance(x, (int, float)):  # a number of Python stays one
            numbers[name] = ops.astype(ops.asarray(x, student), batch.dtype)
            block_rows = None if ops.is_trained(numbers[name]) else block_rows
    weights = {name: numbers.pop(name) for name in weights}
    keys_of_rows = key_set if by_row else None
    setup = Setup(config, weights, keys_of_rows, prototypes, log_prior=prior, **numbers)
    if block_rows == "auto":
        count = 1 if keys_of_rows is None else ops.size(keys_of_rows.labels, 0)
        block_rows = rows_of_a_block(ops, rows, count, student.shape[1], ops.least_rows)
    block = Block(student, batch.teacher, batch.labels, own, batch.kept, pairs)
    return setup, block, block_rows


def category_ramp(
    arguments: Arguments, config: MCLDConfig, progress: Scalar | None, batch: Batch
) -> Scalar | None:
    """Return ``clip(progress / warmup, 0, 1)``, without a gradient; None where it is 1 for sure.

    Raises:
        ValueError, TypeError: a progress that is not one number in 0 … 1.
    """
    ops, warmup = arguments.ops, config.category_warmup
    if progress is None:
        return None
    is_number = isinstance(warmup, (int, float))
    if type(progress) in (int, float) and progress == 1 and is_number and warmup <= 1:
        return None
    progress = arguments.scalar("progress", progress, batch.student, batch.dtype, maximum=1.0)
    if is_number:
        part = progress / warmup if warmup > 0 else 0.0 * progress + 1.0
    else:
        warmup = ops.astype(ops.asarray(warmup, batch.student), batch.dtype)
        part = progress / ops.where(warmup > 0, warmup, 1.0)
        part = ops.where(warmup > 0, part, 1.0)
    return ops.stop_gradient(clip01(ops, part))

"""Several modalities: each of the student's against each of the teacher's, with rows missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mcld_core.arguments import Arguments, Batch, Checks, reduce_rows, wide_dtype
from mcld_core.config import MCLDConfig, check_config
from mcld_core.extensions._arguments import row_ids
from mcld_core.extensions._embeddings import check_scale, contrast_embeddings, embedding_batch
from mcld_core.extensions._embeddings import embedding_contrast as embedding_contrast
from mcld_core.extensions._modalities import (
    check_batches,
    check_mapping,
    check_widths,
    mask_rows,
    modalities,
)
from mcld_core.formulas.divergence import MASKED, raised
from mcld_core.formulas.objective import is_zero
from mcld_core.losses import Objective, evaluate, term_weights
from mcld_core.typing import Array, Bool, Float, Labels, Reduction, Scalar

Pair = tuple[str, str]
"""A modality of the student and one of the teacher."""

RowLoss = Callable[[Array, Array], Array]
"""``function(student_rows, teacher_rows)`` → (batch,) losses."""


class Contrast(NamedTuple):
    """How the rows of each pair are contrasted."""

    kind: str
    objective: Objective
    logit_scale: Scalar | None
    weight_local: Scalar
    dtype: str


def multimodal_mcld_loss(
    student: Mapping[str, Array],
    teacher: Mapping[str, Array],
    labels: Labels | None = None,
    *,
    pairs: Mapping[Pair, Scalar] | None = None,
    kind: str = "logits",
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    logit_scale: Scalar | None = None,
    student_where: Mapping[str, Bool[Array, " batch"]] | None = None,
    teacher_where: Mapping[str, Bool[Array, " batch"]] | None = None,
    weight_local: Scalar = 1.0,
    other_losses: Mapping[Pair, tuple[Scalar, RowLoss]] | None = None,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, " batch"] | None = None,
    reduction: Reduction = "mean",
    return_terms: bool = False,
) -> Any:
    """Contrast every modality of a student with every modality of a teacher.

    For the pair (a, b), ``L_ab,i`` is the loss of the student's rows of a against the teacher's
    rows of b as keys, over the samples that have both (m_ab,i = 1), and

    ``L_i = Σ_ab w_ab m_ab,i L_ab,i / Σ_ab w_ab m_ab,i + Σ_ab u_ab m_ab,i f_ab,i``

    a mean over the pairs that the sample has, so that one with a missing modality weighs as much
    as any other, plus other losses f. A sample with no pair counts for nothing. A sample that
    lacks a modality is, in the pairs of it, as if it were not in the batch: no anchor and no key;
    in the pairs of its other modalities it is like any other.

    - ``kind="logits"``: ``L_ab`` is `mcld_core.mcld_loss`.
    - ``kind="embeddings"``: it is `embedding_contrast`, rows of equal width in place of logits.
    - Levels: arrays (batch, parts, width) on both sides are local rows (patches, regions, words).
      Their means over the parts are contrasted as above and, with ``weight_local``, the part rows
      among all part rows of the batch, each with its sample's label; the mean over the parts
      counts. Under logits the teacher's mean is that of the probabilities.

    Args:
        student: modality → (batch, classes) or (batch, parts, classes).
        teacher: modality → the same; never receives a gradient. A fused row is one more modality
            (`mcld_core.extensions.teachers.ensemble` makes one).
        labels: (batch,) int, or (batch, classes) soft, or None: each teacher modality's arg max
            (logits), no mask and no category-wise term (embeddings).
        pairs: (student's modality, teacher's) → weight ≥ 0; None: all pairs, weight 1.
        kind: ``"logits"`` or ``"embeddings"``.
        config: the settings of each pair.
        logit_scale: multiplies S, for embeddings; learnable, see `embedding_contrast`.
        student_where: modality → (batch,) bool, True where the sample has it; a modality that is
            not named is everywhere. The content of missing rows plays no part.
        teacher_where: the same of the teacher.
        weight_local: weight of the local level, for rows with parts.
        other_losses: pair → (weight, function), such as ``(0.5, feature_mse)`` or ``(1.0, lambda
            s, t: kd_loss(s, t, reduction="none"))``.
        progress: the part of the training that is done, 0 to 1.
        sample_weight: (batch,) ≥ 0.
        reduction: as in `mcld_core.mcld_loss`.
        return_terms: also return the pairs' losses.

    Returns:
        The loss, float32 (float64 if one of the student's modalities is). With ``return_terms`` a
        pair of it and a dict pair → ``L_ab`` reduced over the samples that have it, without
        gradient.

    Raises:
        ValueError, TypeError: no pair, a modality that is not there, batches or widths that
            differ, a mask of the wrong shape, a weight below 0.

    Example:
        >>> import numpy as np
        >>> picture, text, labels = np.eye(3), 5 * np.eye(3), np.arange(3)
        >>> teacher = {"image": 4 * np.eye(3), "text": text}
        >>> loss, terms = multimodal_mcld_loss(
        ...     {"image": picture}, teacher, labels, return_terms=True)
        >>> sorted(terms)
        [('image', 'image'), ('image', 'text')]

    References:
        A. Radford et al., "Learning Transferable Visual Models From Natural Language
        Supervision", ICML 2021 (contrast across modalities). C. Yang et al., "CLIP-KD: An
        Empirical Study of CLIP Model Distillation", CVPR 2024.
    """
    function = "multimodal_mcld_loss"
    checks = Checks(function)
    _check_settings(checks, kind, config, logit_scale, weight_local)
    checks.reduction(reduction)
    sides = {"student": student, "teacher": teacher}
    masks = {
        "student": {} if student_where is None else student_where,
        "teacher": {} if teacher_where is None else teacher_where,
    }
    for side in sides:
        check_mapping(function, side, sides[side], "modality → array")
        check_mapping(function, f"{side}_where", masks[side], "modality → mask")
    pairs = {(a, b): 1.0 for a in student for b in teacher} if pairs is None else pairs
    others = {} if other_losses is None else other_losses
    _check_pairs(checks, pairs, others)
    _check_names(checks, "student", student, [a for a, _ in (*pairs, *others)], masks["student"])
    _check_names(checks, "teacher", teacher, [b for _, b in (*pairs, *others)], masks["teacher"])

    values = (
        *student.values(),
        *teacher.values(),
        *(x for m in masks.values() for x in m.values()),
    )
    arguments = Arguments(function, *values, labels, sample_weight, logit_scale)
    ops = arguments.ops
    ours, theirs = (modalities(arguments, side, sides[side], masks[side]) for side in sides)
    check_batches(arguments, {"student": ours, "teacher": theirs})
    first = next(iter(ours.values())).rows
    labelled = _labelled(arguments, labels, first, kind, config)
    if labelled is not None:
        ours, theirs = (
            {name: mask_rows(ops, one, labelled) for name, one in side.items()}
            for side in (ours, theirs)
        )
    for a, b in (*pairs, *others):
        check_widths(arguments, (a, b), ours[a].rows, theirs[b].rows)
    dtype = wide_dtype(*(ops.dtype(one.rows) for one in ours.values()))
    objective = Objective(config, term_weights(config), progress=progress)
    contrast = Contrast(kind, objective, logit_scale, weight_local, dtype)

    def number(weight: Scalar) -> Float[Array, ""]:
        return arguments.scalar("a weight", weight, first, dtype)

    found: dict[Pair, tuple[Array, Array]] = {}
    nothing = 0.0 * ops.astype(ops.arange(ops.size(first, 0), first), dtype)
    total, share, counted = nothing, nothing, nothing > 0
    for (a, b), weight in pairs.items():
        both = ours[a].present & theirs[b].present
        losses = _levels(arguments, contrast, (ours[a].rows, theirs[b].rows), labels, both)
        found[a, b] = losses, both
        total = total + number(weight) * losses
        share = share + number(weight) * ops.astype(both, dtype)
    total = ops.where(share > 0, total / ops.where(share > 0, share, 1.0), 0.0)
    counted = share > 0
    for (a, b), (weight, loss) in others.items():
        both = ours[a].present & theirs[b].present
        s, t = (mask_rows(ops, one, both).rows for one in (ours[a], theirs[b]))
        losses = arguments.array(f"other_losses[{(a, b)!r}]", loss(s, ops.stop_gradient(t)), first)
        arguments.vector(f"the result of other_losses[{(a, b)!r}]", losses, first.shape[0])
        total = total + number(weight) * ops.where(both, ops.astype(losses, dtype), 0.0)
        counted = counted | both
    weights = None
    if sample_weight is not None:
        every = counted
        for _, both in found.values():  # a pair of weight 0 has a term, too
            every = every | both
        weights = arguments.weight(sample_weight, every, nothing, dtype, "student")

    def reduced(losses: Array, counts: Array) -> Array:
        weight = ops.astype(counts, dtype)
        weight = weight if weights is None else weight * weights
        batch = Batch(losses, losses, dtype, None, None, weight)
        return reduce_rows(ops, losses, batch, reduction)

    value = reduced(total, counted)
    if not return_terms:
        return value
    return value, {pair: ops.stop_gradient(reduced(*parts)) for pair, parts in found.items()}


def feature_mse(student_rows: Array, teacher_rows: Array) -> Float[Array, " batch"]:
    """Return the mean squared difference of each row, for ``other_losses``.

    Args:
        student_rows: (batch, width).
        teacher_rows: (batch, width); never receives a gradient.

    Returns:
        (batch,) means over the width, float32 (float64 for float64 student rows).

    Raises:
        ValueError: rows without two axes, or of different widths.
        TypeError: tensors of two frameworks.

    Example:
        >>> import numpy as np
        >>> feature_mse(np.array([[0.0, 2.0]]), np.zeros((1, 2)))
        array([2.])
    """
    arguments = Arguments("feature_mse", student_rows, teacher_rows)
    ops = arguments.ops
    student = arguments.array("student_rows", student_rows, arguments.like)
    teacher = arguments.array("teacher_rows", teacher_rows, student)
    if len(student.shape) != 2 or tuple(student.shape)[1] != tuple(teacher.shape)[1]:
        raise ValueError(
            "feature_mse: student_rows and teacher_rows need shape (batch, width), one width; got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    dtype = wide_dtype(ops.dtype(student))
    difference = ops.astype(student, dtype) - ops.stop_gradient(ops.astype(teacher, dtype))
    return ops.sum(difference * difference, 1) / float(student.shape[1])


def _levels(
    arguments: Arguments,
    contrast: Contrast,
    rows: tuple[Array, Array],
    labels: Any,
    both: Bool[Array, " batch"],
) -> Float[Array, " batch"]:
    """Return the losses of one pair: of samples, or of their means and of their parts."""
    ops, dtype = arguments.ops, contrast.dtype
    if len(rows[0].shape) == 2:
        return _pair(arguments, contrast, rows, labels, both)
    student, teacher = (ops.astype(x, dtype) for x in rows)
    count, parts, width = ops.size(student, 0), ops.size(student, 1), student.shape[2]
    divisor = ops.astype(ops.asarray(parts, student), dtype)
    mean_student = ops.sum(student, 1) / divisor
    if contrast.kind == "logits":
        p = ops.sum(ops.softmax(raised(ops, teacher), 2), 1) / divisor
        mean_teacher = ops.where(p > 0, ops.log(ops.where(p > 0, p, 1.0)), MASKED)
    else:
        mean_teacher = ops.sum(teacher, 1) / divisor
    losses = _pair(arguments, contrast, (mean_student, mean_teacher), labels, both)
    if is_zero(contrast.weight_local):
        return losses
    sample = ops.arange(count * parts, student) // parts
    if labels is not None:
        labels = ops.take(ops.asarray(labels, student), sample)
    flat = ops.reshape(student, (-1, width)), ops.reshape(teacher, (-1, width))
    local = _pair(arguments, contrast, flat, labels, ops.take(both, sample))
    local = ops.sum(ops.reshape(local, (count, parts)), 1) / divisor
    weight = arguments.scalar("weight_local", contrast.weight_local, student, dtype)
    return losses + weight * local


def _pair(
    arguments: Arguments,
    contrast: Contrast,
    rows: tuple[Array, Array],
    labels: Any,
    both: Bool[Array, " rows"],
) -> Float[Array, " rows"]:
    """Return the loss of each row of one level of one pair."""
    ops, objective = arguments.ops, contrast.objective
    if contrast.kind == "logits":
        arrays = (*rows, labels, None, both)
        return ops.astype(evaluate(arguments.function, arrays, objective, "none"), contrast.dtype)
    batch = embedding_batch(arguments, rows, labels, None, both)
    scale = 1.0 / 0.07
    if contrast.logit_scale is not None:
        scale = check_scale(arguments, contrast.logit_scale, batch)
    return ops.astype(contrast_embeddings(arguments, batch, objective, scale), contrast.dtype)


def _check_settings(
    checks: Checks, kind: str, config: Any, logit_scale: Any, weight_local: Any
) -> None:
    checks.choice("kind", kind, ("logits", "embeddings"))
    check_config(checks.function, config)
    checks.number("weight_local", weight_local, minimum=0.0)
    if kind == "logits" and logit_scale is not None:
        raise ValueError(
            f"{checks.function}: logit_scale is for kind='embeddings'; got it with logits, whose "
            "scale is their own (config.temperature divides S)"
        )


def _check_pairs(checks: Checks, pairs: Any, others: Any) -> None:
    """Raise unless there is a pair, each of two names, with a weight ≥ 0."""
    function = checks.function
    check_mapping(function, "pairs", pairs, "(student's modality, teacher's) → weight")
    check_mapping(function, "other_losses", others, "(student's, teacher's) → (weight, function)")
    if not pairs and not others:
        raise ValueError(f"{function}: pairs needs at least one pair of modalities; got none")
    for name, given in (("pairs", pairs), ("other_losses", others)):
        for pair in given:
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise TypeError(
                    f"{function}: each key of {name} needs (student's modality, teacher's); got "
                    f"{pair!r}"
                )
    for pair, entry in others.items():
        if not isinstance(entry, (tuple, list)) or len(entry) != 2 or not callable(entry[1]):
            raise TypeError(
                f"{function}: other_losses[{pair!r}] needs (weight, function); got {entry!r}"
            )
    weights = {**pairs}, {pair: weight for pair, (weight, _) in others.items()}
    for given in weights:
        for pair, weight in given.items():
            checks.number(f"the weight of {pair!r}", weight, minimum=0.0)


def _check_names(
    checks: Checks, side: str, given: Mapping[str, Any], asked: list[str], masks: Mapping[str, Any]
) -> None:
    """Raise ValueError for a modality that is asked for and is not there."""
    for name in (*asked, *masks):
        if name not in given:
            raise ValueError(
                f"{checks.function}: {side} has no modality {name!r}; it has {sorted(given)}"
            )


def _labelled(
    arguments: Arguments, labels: Any, first: Array, kind: str, config: MCLDConfig
) -> Bool[Array, " batch"] | None:
    """Return the rows whose int label is not to be left out; None where that is every row."""
    if labels is None or len(arguments.array("labels", labels, first).shape) != 1:
        return None
    labels = row_ids(arguments, "labels", labels, first)
    kept = labels >= 0 if kind == "embeddings" else labels != config.ignore_index
    return arguments.unless_all(kept)

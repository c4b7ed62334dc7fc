"""Several modalities: each of the student's is contrasted with each of the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.arguments import Arguments, both_kept, fits, ratio, reduce_rows, wide_dtype
from mcld_core.extensions._terms import is_zero, log_of, weighing
from mcld_core.typing import Array, Bool, Float, Labels, Reduction, Scalar, Tensor

Pair = tuple[str, str]
"""A modality of the student and one of the teacher."""

RowLoss = Callable[[Array, Array], Array]
"""``function(student_rows, teacher_rows)`` → (batch,) losses."""


class Modality(NamedTuple):
    """One modality of one side."""

    rows: Float[Array, "batch width"] | Float[Array, "batch parts width"]
    present: Bool[Array, " batch"]


def embedding_contrast(
    student: list[Any] | Float[Tensor, "batch width"],
    teacher: Float[Array, "batch width"],
    labels: Labels | None = None,
    *,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    temperature: Scalar = 0.07,
    logit_scale: Scalar | None = None,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Bool[Array, " batch"] | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Contrast embeddings instance- and category-wise: ``S_ij = scale · cos(s_i, t_j)``.

    ``L_i = w_ins L_ins,i + ramp w_cat L_cat,i``, the terms of `mcld_core.mcld_loss` with this S.
    An embedding has no entry a class, so there is no sample-wise term and no cross-entropy. Of
    the config, ``similarity`` and ``temperature`` play no part.

    Args:
        student: (batch, width), any float dtype.
        teacher: (batch, width); never receives a gradient.
        labels: (batch,) int ids ≥ 0, or (batch, any) soft labels, whose rows sum to 1. A row with
            a negative id is dropped. None: no target mask and no category-wise term. Ids beyond
            32 bits need 64-bit integers: in JAX ``jax_enable_x64``.
        config: weights, target mask and warm-up.
        temperature: > 0; the scale is 1 / temperature where ``logit_scale`` is None.
        logit_scale: the scale itself, > 0. It may be trained: keep its logarithm as the parameter
            and pass the exponential. Its gradient is ``Σ_ij dL/dS_ij · cos_ij``.
        progress: the part of the training that is done, 0 to 1.
        sample_weight: (batch,) ≥ 0.
        where: (batch,) bool, True = keep; a dropped row is compared with nothing.
        reduction: as in `mcld_core.mcld_loss`; so are result and errors.

    Example:
        >>> import numpy as np
        >>> round(float(embedding_contrast(np.eye(2), np.eye(2), logit_scale=1.0)), 4)
        0.3133

    References:
        A. Radford et al., "Learning Transferable Visual Models From Natural Language
        Supervision", ICML 2021.
    """
    beside = (labels, temperature, logit_scale, sample_weight, where)
    arguments = Arguments("embedding_contrast", student, teacher, *beside)
    arguments.settings(config, MCLDConfig)
    ops = arguments.ops
    arguments.names = "student", "teacher"
    student, teacher = arguments.pair(student, teacher)
    dtype = wide_dtype(ops.dtype(student))
    tau = arguments.scalar("temperature", temperature, student, dtype, above=0.0)
    if logit_scale is not None:
        tau = 1.0 / arguments.scalar("logit_scale", logit_scale, student, dtype, above=0.0)
    weights = {"instance": config.weight_instance, "category": config.weight_category}
    if labels is None:
        weights["category"] = 0.0
        config = replace(config, target_mask=False)
    elif len(arguments.array("labels", labels, student).shape) == 1:
        labels = arguments.ids("labels", labels, student)
        where = both_kept(arguments.mask("where", where, student, "student"), labels >= 0)
    config = replace(weighing(config, **weights), similarity="cosine", temperature=tau)
    return mcld_loss(
        student, teacher, labels, config=replace(config, category_contrast="labels"),
        progress=progress, sample_weight=sample_weight, where=where, reduction=reduction,
    )  # fmt: skip


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
    class_prior: Float[Array, " classes"] | None = None,
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

    The first part is the mean over the pairs that the sample has, so a sample that misses a
    modality weighs as much as any other. The second part adds other losses f. A sample without
    any pair does not count. Where a sample misses a modality, the pairs of that modality treat it
    as if it were not in the batch: it is compared with nothing. In all other pairs it is like
    any other sample.

    - ``kind="logits"``: ``L_ab`` is `mcld_core.mcld_loss`.
    - ``kind="embeddings"``: ``L_ab`` is `embedding_contrast`; the rows need one width, which is
      not a number of classes.
    - Levels: arrays (batch, parts, width) on both sides hold a sample's parts (patches, regions,
      words). The means over the parts are contrasted as above; under logits the teacher's mean is
      that of its probabilities. With ``weight_local`` each part is contrasted too, with all parts
      of the batch as keys and with its sample's label; the sample's value is the mean over its
      parts. A modality without any part is missing in every row.

    Args:
        student: modality → (batch, classes) or (batch, parts, classes).
        teacher: modality → the same; never receives a gradient. A fused modality is one more
            entry (`mcld_core.extensions.teachers.ensemble` makes its logits).
        labels: (batch,) int, or (batch, classes) soft. None: under logits the arg max of each
            teacher modality stands for the label; under embeddings there is no target mask and
            no category-wise term.
        pairs: (student's modality, teacher's) → weight ≥ 0; None: all pairs, weight 1.
        kind: ``"logits"`` or ``"embeddings"``.
        config: the settings of each pair.
        logit_scale: the scale of S, for embeddings only; it may be trained, see
            `embedding_contrast`.
        student_where: modality → (batch,) bool, True where the sample has it. A modality that is
            not named is there in every row. The content of missing rows plays no part.
        teacher_where: the same for the teacher.
        weight_local: weight of the local level, for rows with parts.
        class_prior: (classes,) ≥ 0, for logits, as in `mcld_core.mcld_loss`.
        other_losses: pair → (weight, function), such as ``(0.5, feature_mse)`` or ``(1.0, lambda
            s, t: kd_loss(s, t, reduction="none"))``.
        progress: the part of the training that is done, 0 to 1.
        sample_weight: (batch,) ≥ 0.
        reduction: as in `mcld_core.mcld_loss`.
        return_terms: also return the pairs' losses.

    Returns:
        The loss, float32 (float64 if one of the student's modalities is). With ``return_terms`` a
        tuple of the loss and a dict: pair → ``L_ab``, reduced over the samples that have the pair,
        without a gradient.

    Raises:
        ValueError, TypeError: no pair, a modality that is not there, batches or widths that
            differ, a mask of the wrong shape, a weight that is not one finite number ≥ 0.

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
    our_masks = {} if student_where is None else student_where
    their_masks = {} if teacher_where is None else teacher_where
    others = {} if other_losses is None else other_losses
    dicts = {"student": student, "teacher": teacher, "pairs": {} if pairs is None else pairs}
    dicts |= {"student_where": our_masks, "teacher_where": their_masks, "other_losses": others}
    for name, x in dicts.items():
        if not isinstance(x, Mapping):
            raise TypeError(f"{function}: {name} needs a dict; got {type(x).__name__}")
    pairs = {(a, b): 1.0 for a in student for b in teacher} if pairs is None else pairs
    given = (*student.values(), *teacher.values(), *our_masks.values(), *their_masks.values())
    arguments = Arguments(function, *given, labels, sample_weight, logit_scale)
    arguments.reduction(reduction)
    arguments.flag("return_terms", return_terms)
    arguments.settings(config, MCLDConfig)
    arguments.choice("kind", kind, ("logits", "embeddings"))
    _check_kind(function, kind, logit_scale, class_prior)
    if not pairs and not others:
        raise ValueError(f"{function}: pairs needs at least one pair of modalities; got none")
    _check_names(function, "student", student, [*our_masks, *(a for a, _ in (*pairs, *others))])
    _check_names(function, "teacher", teacher, [*their_masks, *(b for _, b in (*pairs, *others))])
    ops = arguments.ops
    our_rows = _modalities(arguments, "student", student, our_masks)
    their_rows = _modalities(arguments, "teacher", teacher, their_masks)
    first = next(iter(our_rows.values())).rows
    dtype = wide_dtype(*(ops.dtype(one.rows) for one in our_rows.values()))
    labelled = None
    if labels is not None and len(arguments.array("labels", labels, first).shape) == 1:
        labels = arguments.ids("labels", labels, first)
        labelled = labels >= 0 if kind == "embeddings" else labels != config.ignore_index
    both = {}
    for a, b in (*pairs, *others):
        _check_shapes(function, (a, b), our_rows[a].rows, their_rows[b].rows)
        both[a, b] = both_kept(our_rows[a].present & their_rows[b].present, labelled)
    local = arguments.scalar("weight_local", weight_local, first, dtype)

    def contrast(student: Array, teacher: Array, labels: Any, where: Array) -> Array:
        """Return the loss of each row of one level of one pair."""
        settings = {"config": config, "progress": progress, "where": where, "reduction": "none"}
        if kind == "logits":
            return mcld_loss(student, teacher, labels, class_prior=class_prior, **settings)
        return embedding_contrast(student, teacher, labels, logit_scale=logit_scale, **settings)

    def levels(pair: Pair) -> Float[Array, " batch"]:
        """Return the losses of one pair: of samples, or of their means and of their parts."""
        student, teacher = our_rows[pair[0]].rows, their_rows[pair[1]].rows
        if len(student.shape) == 2:
            return ops.astype(contrast(student, teacher, labels, both[pair]), dtype)
        student, teacher = (ops.astype(x, dtype) for x in (student, teacher))
        count, parts = ops.size(student, 0), ops.size(student, 1)
        divisor = ops.maximum(ops.astype(ops.asarray(parts, student), dtype), 1.0)
        probabilities = ops.softmax(teacher, 2) if kind == "logits" else teacher
        mean = ops.sum(probabilities, 1) / divisor
        mean = log_of(ops, mean) if kind == "logits" else mean
        losses = contrast(ops.sum(student, 1) / divisor, mean, labels, both[pair])
        if is_zero(weight_local):
            return losses
        sample = ops.arange(count * parts, student) // parts
        of_parts = None if labels is None else ops.take(ops.asarray(labels, student), sample)
        student, teacher = (ops.reshape(x, (-1, x.shape[2])) for x in (student, teacher))
        found = contrast(student, teacher, of_parts, ops.take(both[pair], sample))
        return losses + local * ops.sum(ops.reshape(found, (count, parts)), 1) / divisor

    found = {pair: levels(pair) for pair in pairs}
    total = share = 0.0 * ops.astype(ops.arange(ops.size(first, 0), first), dtype)
    for pair, weight in pairs.items():
        weight = arguments.scalar(f"the weight of {pair!r}", weight, first, dtype)
        total = total + weight * found[pair]
        share = share + weight * ops.astype(both[pair], dtype)
    total, counted = ratio(ops, total, share), share > 0
    for pair, (weight, loss) in others.items():
        weight = arguments.scalar(f"the weight of {pair!r}", weight, first, dtype)
        ours, theirs = our_rows[pair[0]].rows, their_rows[pair[1]].rows
        kept = ops.reshape(both[pair], (-1, *(1 for _ in ours.shape[1:])))
        ours, theirs = (ops.where(kept, x, 0.0) for x in (ours, theirs))
        name = f"the result of other_losses[{pair!r}]"
        losses = arguments.array(name, loss(ours, ops.stop_gradient(theirs)), ours)
        arguments.vector(name, losses, ours.shape[0])
        total = total + weight * ops.where(both[pair], ops.astype(losses, dtype), 0.0)
        counted = counted | both[pair]
    every = counted
    for pair in found:  # a pair of weight 0 has a term, too
        every = every | both[pair]
    weights = arguments.weight(sample_weight, every, total, dtype, "the student")

    def reduced(losses: Array, counts: Array) -> Array:
        return reduce_rows(ops, losses, ops.astype(counts, dtype) * weights, reduction)

    value = reduced(total, counted)
    if not return_terms:
        return value
    terms = {pair: reduced(losses, both[pair]) for pair, losses in found.items()}
    return value, {pair: ops.stop_gradient(term) for pair, term in terms.items()}


def feature_mse(student_rows: Array, teacher_rows: Array) -> Float[Array, " batch"]:
    """Return the mean squared difference of each row, for ``other_losses``.

    Args:
        student_rows: (batch, width).
        teacher_rows: (batch, width); never receives a gradient.

    Returns:
        (batch,) means over the width, float32 (float64 for float64 student rows).

    Raises:
        ValueError: rows without two axes, of different batches or widths.
        TypeError: rows that are not floats, tensors of two frameworks.

    Example:
        >>> import numpy as np
        >>> feature_mse(np.array([[0.0, 2.0]]), np.zeros((1, 2)))
        array([2.])
    """
    arguments = Arguments("feature_mse", student_rows, teacher_rows)
    ops = arguments.ops
    arguments.names = "student_rows", "teacher_rows"
    student, teacher = arguments.pair(student_rows, teacher_rows)
    dtype = wide_dtype(ops.dtype(student))
    difference = ops.astype(student, dtype) - ops.stop_gradient(ops.astype(teacher, dtype))
    return ops.sum(difference * difference, 1) / float(student.shape[1])


def _check_kind(function: str, kind: str, logit_scale: Any, class_prior: Any) -> None:
    """Raise ValueError for an argument that is for the other kind."""
    if kind == "logits" and logit_scale is not None:
        raise ValueError(
            f"{function}: logit_scale is for kind='embeddings'; got it with logits, whose scale is "
            "their own (config.temperature divides S)"
        )
    if kind == "embeddings" and class_prior is not None:
        raise ValueError(
            f"{function}: class_prior is for kind='logits'; got it with embeddings, which have no "
            "entry a class. Leave it out"
        )


def _check_names(function: str, side: str, arrays: Mapping[str, Any], names: list[str]) -> None:
    """Raise ValueError for the name of a modality that is not there."""
    for name in names:
        if name not in arrays:
            has = ", ".join(sorted(map(repr, arrays))) or "none"
            raise ValueError(f"{function}: {side} has no modality {name!r}; it has {has}")


def _check_shapes(function: str, pair: Pair, student: Array, teacher: Array) -> None:
    """Raise ValueError unless the rows of a pair have one batch, one width, and as many parts."""
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    if not fits(ours, theirs):
        raise ValueError(
            f"{function}: student[{pair[0]!r}] and teacher[{pair[1]!r}] need the same batch (rows "
            f"that miss a modality are marked by its where) and width; got {ours} and {theirs}. "
            "Bring one to the other's width first: a projection in the model, or select_classes"
        )


def _modalities(
    arguments: Arguments, side: str, arrays: Mapping[str, Any], masks: Mapping[str, Any]
) -> dict[str, Modality]:
    """Return the modalities of one side, converted; raise for arrays or masks that do not fit.

    One without any part is missing in every row.
    """
    ops, like, found = arguments.ops, arguments.like, {}
    for modality, x in arrays.items():
        name = f"{side}[{modality!r}]"
        rows = arguments.array(name, x, like)
        shape = tuple(rows.shape)
        if len(shape) not in (2, 3) or not shape[-1] or "float" not in ops.dtype(rows):
            raise ValueError(
                f"{arguments.function}: {name} needs shape (batch, width) or (batch, parts, "
                f"width), the width known and not 0, and a float dtype; got shape {shape}, "
                f"{ops.dtype(rows)}"
            )
        if like is not None:
            arguments.device(name, rows, like, "another argument")
        parts = 1 if len(shape) == 2 else ops.size(rows, 1)
        has_parts = 0 * ops.arange(ops.size(rows, 0), rows) < parts
        mask = arguments.mask(f"where of {name}", masks.get(modality), rows, name)
        found[modality] = Modality(rows, both_kept(has_parts, mask))
    return found

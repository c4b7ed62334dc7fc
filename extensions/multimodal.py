"""Several modalities: each of the student's is contrasted with each of the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.arguments import (
    Arguments,
    both_kept,
    fits,
    is_plain,
    log_of,
    ratio,
    reduce_rows,
    wide_dtype,
)
from mcld_core.typing import Array, Bool, Float, Labels, Reduction, Scalar, Tensor

Pair = tuple[str, str]
"""A modality of the student and one of the teacher."""

RowLoss = Callable[[Array, Array], Array]
"""``function(student_rows, teacher_rows)`` → (batch,) losses."""

WIDTH = ("width", "Bring both to one width first: a projection in the model")
"""What the two sides of an embedding share, and what to do where they do not."""


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
    the config, ``similarity``, ``temperature`` and ``category_contrast`` play no part.

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
        progress, sample_weight, where, reduction: as in `mcld_core.mcld_loss`; so are result and
            errors.

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
    arguments.names, arguments.columns = ("student", "teacher"), WIDTH
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
        where = both_kept(arguments.mask("where", where, student), labels >= 0)
    config = replace(config.only(**weights), similarity="cosine", temperature=tau)
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
      words). The means over the parts are contrasted as above; of logits under the "probability"
      similarity the teacher's mean is that of its probabilities. With ``weight_local`` each part is
      contrasted too, with all parts of the batch as keys and with its sample's label; the sample's
      value is the mean over its parts. A modality without any part is missing in every row.

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
        class_prior: for logits only, as in `mcld_core.mcld_loss`.
        other_losses: pair → (weight, function), such as ``(0.5, feature_mse)`` or ``(1.0, lambda
            s, t: kd_loss(s, t, reduction="none"))``.
        progress, sample_weight, reduction: as in `mcld_core.mcld_loss`.
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
    for x in (*(pairs or ()), *others, *others.values()):
        if not isinstance(x, (tuple, list)) or len(x) != 2:
            needs = "pairs need names (a, b), and other_losses need (a, b) → (weight, function)"
            raise TypeError(f"{function}: {needs}; got {x!r}")
    pairs = {(a, b): 1.0 for a in student for b in teacher} if pairs is None else pairs
    given = (*student.values(), *teacher.values(), *our_masks.values(), *their_masks.values())
    arguments = Arguments(function, *given, labels, sample_weight, logit_scale)
    arguments.names = "the student", "the teacher"
    arguments.reduction(reduction)
    arguments.flag("return_terms", return_terms)
    arguments.settings(config, MCLDConfig)
    arguments.choice("kind", kind, ("logits", "embeddings"))
    for name, value, its_kind in (
        ("logit_scale", logit_scale, "embeddings"),
        ("class_prior", class_prior, "logits"),
    ):
        if value is not None and kind != its_kind:
            cure = "Leave it out: logits have config.temperature, embeddings no entry a class"
            raise arguments.wrong(f"{name} is for kind={its_kind!r}", f"it with {kind}", cure)
    if not pairs and not others:
        raise arguments.wrong("pairs needs at least one pair of modalities", "none")
    named = list(zip(*pairs, *others, strict=True))
    ours, our_presence = _modalities(arguments, "student", student, our_masks, named[0])
    theirs, their_presence = _modalities(arguments, "teacher", teacher, their_masks, named[1])
    ops, first = arguments.ops, next(iter(ours.values()))
    dtype = wide_dtype(*(ops.dtype(rows) for rows in ours.values()))
    labelled = None
    if labels is not None and len(arguments.array("labels", labels, first).shape) == 1:
        labels = arguments.ids("labels", labels, first)
        labelled = labels >= 0 if kind == "embeddings" else labels != config.ignore_index
    both = {}
    for a, b in (*pairs, *others):
        shapes = tuple(ours[a].shape), tuple(theirs[b].shape)
        if not fits(*shapes):
            needs = "the same batch (rows that miss a modality are marked by its where) and width"
            needs = f"student[{a!r}] and teacher[{b!r}] need {needs}"
            cure = "Bring both to one width first: a projection in the model, or select_classes"
            raise arguments.wrong(needs, " and ".join(map(str, shapes)), cure)
        both[a, b] = both_kept(our_presence[a] & their_presence[b], labelled)
    local = arguments.scalar("weight_local", weight_local, first, dtype)

    of_kind: Any = partial(mcld_loss, class_prior=class_prior)
    if kind == "embeddings":
        of_kind = partial(embedding_contrast, logit_scale=logit_scale)
    contrast = partial(of_kind, config=config, progress=progress, reduction="none")

    def levels(pair: Pair) -> Float[Array, " batch"]:
        """Return the losses of one pair: of samples, or of their means and of their parts."""
        student, teacher = ours[pair[0]], theirs[pair[1]]
        if len(student.shape) == 2:
            return ops.astype(contrast(student, teacher, labels, where=both[pair]), dtype)
        student, teacher = (ops.astype(x, dtype) for x in (student, teacher))
        count, parts = ops.size(student, 0), ops.size(student, 1)
        divisor = ops.maximum(ops.astype(ops.asarray(parts, student), dtype), 1.0)
        of_softmax = kind == "logits" and config.compares_distributions
        mean = ops.sum(ops.softmax(teacher, 2) if of_softmax else teacher, 1) / divisor
        mean = log_of(ops, mean) if of_softmax else mean
        losses = contrast(ops.sum(student, 1) / divisor, mean, labels, where=both[pair])
        if is_plain(weight_local, 0):
            return losses
        sample = ops.arange(count * parts, student) // parts
        of_parts = None if labels is None else ops.take(ops.asarray(labels, student), sample)
        student, teacher = (ops.reshape(x, (-1, x.shape[2])) for x in (student, teacher))
        found = contrast(student, teacher, of_parts, where=ops.take(both[pair], sample))
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
        given = ours[pair[0]], ops.stop_gradient(theirs[pair[1]])
        kept = ops.reshape(both[pair], (-1, *(1 for _ in given[0].shape[1:])))
        rows = (ops.where(kept, x, 0.0) for x in given)
        name = f"the result of other_losses[{pair!r}]"
        losses = arguments.shaped(name, loss(*rows), first)
        total = total + weight * ops.where(both[pair], ops.astype(losses, dtype), 0.0)
        counted = counted | both[pair]
    every = counted
    for pair in found:  # a pair of weight 0 has a term, too
        every = every | both[pair]
    weights = arguments.weight(sample_weight, every, total, dtype)

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
    arguments.names, arguments.columns = ("student_rows", "teacher_rows"), WIDTH
    student, teacher = arguments.pair(student_rows, teacher_rows)
    dtype = wide_dtype(ops.dtype(student))
    difference = ops.astype(student, dtype) - ops.stop_gradient(ops.astype(teacher, dtype))
    return ops.sum(difference * difference, 1) / float(student.shape[1])


def _modalities(
    arguments: Arguments,
    side: str,
    arrays: Mapping[str, Any],
    masks: Mapping[str, Any],
    named: Iterable[str],
) -> tuple[dict[str, Array], dict[str, Bool[Array, " batch"]]]:
    """Return the rows of each modality of one side, converted, and who has them.

    Raise for arrays or masks that do not fit, and for the name of a modality that is not there. One
    without any part is missing in every row.
    """
    for name in (*masks, *named):
        if name not in arrays:
            has = ", ".join(sorted(map(repr, arrays))) or "none"
            raise ValueError(f"{arguments.function}: {side} has no modality {name!r}; it has {has}")
    ops, found, presence = arguments.ops, {}, {}
    for modality, x in arrays.items():
        name = f"{side}[{modality!r}]"
        rows = arguments.array(name, x, arguments.like)
        shape, dtype = tuple(rows.shape), ops.dtype(rows)
        if len(shape) not in (2, 3) or not shape[-1] or "float" not in dtype:
            forms = "(batch, width) or (batch, parts, width), the width known and not 0"
            needs = f"{name} needs shape {forms}, and a float dtype"
            raise arguments.wrong(needs, f"shape {shape}, {dtype}")
        if arguments.like is not None:
            arguments.device(name, rows, arguments.like, "another argument")
        parts = 1 if len(shape) == 2 else ops.size(rows, 1)
        has_parts = 0 * ops.arange(ops.size(rows, 0), rows) < parts
        mask = arguments.mask(f"where of {name}", masks.get(modality), rows)
        found[modality], presence[modality] = rows, both_kept(has_parts, mask)
    return found, presence

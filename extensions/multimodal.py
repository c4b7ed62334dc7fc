"""Several modalities: each of the student's is contrasted with each of the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mcld_core.arguments import Arguments, Checks, ratio, reduce_rows, wide_dtype
from mcld_core.config import MCLDConfig, check_config
from mcld_core.extensions._embeddings import (
    contrast_embeddings,
    embedding_batch,
    pair_of_rows,
)
from mcld_core.extensions._embeddings import embedding_contrast as embedding_contrast
from mcld_core.extensions._modalities import (
    Pair,
    PairRows,
    check_mapping,
    check_names,
    given_side,
    modalities,
    pair_rows,
)
from mcld_core.formulas.divergence import masked_log, raised
from mcld_core.formulas.objective import is_zero
from mcld_core.losses import Objective, evaluate, term_weights
from mcld_core.typing import Array, Bool, Float, Labels, Reduction, Scalar

RowLoss = Callable[[Array, Array], Array]
"""``function(student_rows, teacher_rows)`` → (batch,) losses."""


class _Contrast(NamedTuple):
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
    checks = Checks(function)
    checks.reduction(reduction)
    checks.flag("return_terms", return_terms)
    check_config(function, config)
    checks.choice("kind", kind, ("logits", "embeddings"))
    checks.number("weight_local", weight_local, minimum=0.0)
    _check_kind(function, kind, logit_scale, class_prior)
    ours = given_side(function, "student", student, student_where)
    theirs = given_side(function, "teacher", teacher, teacher_where)
    pairs = {(a, b): 1.0 for a in student for b in teacher} if pairs is None else pairs
    others = {} if other_losses is None else other_losses
    _check_pairs(function, pairs, others)
    asked = (*pairs, *others)
    check_names(function, ours, (a for a, _ in asked))
    check_names(function, theirs, (b for _, b in asked))

    given = (*student.values(), *teacher.values(), *ours.masks.values(), *theirs.masks.values())
    arguments = Arguments(function, *given, labels, sample_weight, logit_scale)
    ops = arguments.ops
    our_rows, their_rows = modalities(arguments, ours, theirs)
    first = next(iter(our_rows.values())).rows
    dtype = wide_dtype(*(ops.dtype(one.rows) for one in our_rows.values()))
    labelled = _labelled(arguments, labels, first, kind, config)
    rows = {
        (a, b): pair_rows(function, (a, b), our_rows[a], their_rows[b], labelled) for a, b in asked
    }
    objective = Objective(config, term_weights(config), None, class_prior, progress)
    contrast = _Contrast(kind, objective, logit_scale, weight_local, dtype)
    found = {pair: _levels(arguments, contrast, rows[pair], labels) for pair in pairs}

    total = share = 0.0 * ops.astype(ops.arange(ops.size(first, 0), first), dtype)
    for pair, weight in pairs.items():
        weight = arguments.scalar(f"the weight of {pair!r}", weight, first, dtype)
        total = total + weight * found[pair]
        share = share + weight * ops.astype(rows[pair].both, dtype)
    total, counted = ratio(ops, total, share), share > 0
    for pair, (weight, loss) in others.items():
        weight = arguments.scalar(f"the weight of {pair!r}", weight, first, dtype)
        total = total + weight * _other_loss(arguments, pair, rows[pair], loss, dtype)
        counted = counted | rows[pair].both
    every = counted
    for pair in found:  # a pair of weight 0 has a term, too
        every = every | rows[pair].both
    weights = arguments.weight(sample_weight, every, total, dtype, "the student")

    def reduced(losses: Array, counts: Array) -> Array:
        return reduce_rows(ops, losses, ops.astype(counts, dtype) * weights, reduction)

    value = reduced(total, counted)
    if not return_terms:
        return value
    terms = {pair: reduced(losses, rows[pair].both) for pair, losses in found.items()}
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
    names = ("student_rows", "teacher_rows")
    student, teacher = pair_of_rows(arguments, names, (student_rows, teacher_rows))
    dtype = wide_dtype(ops.dtype(student))
    difference = ops.astype(student, dtype) - ops.stop_gradient(ops.astype(teacher, dtype))
    return ops.sum(difference * difference, 1) / float(student.shape[1])


def _other_loss(
    arguments: Arguments, pair: Pair, rows: PairRows, loss: RowLoss, dtype: str
) -> Float[Array, " batch"]:
    """Return another loss of a pair, a value a sample, 0 where the sample lacks one of them."""
    ops, both = arguments.ops, rows.both
    keep = ops.reshape(both, (-1, *(1 for _ in rows.student.shape[1:])))
    student, teacher = (ops.where(keep, x, 0.0) for x in rows[:2])
    name = f"the result of other_losses[{pair!r}]"
    losses = arguments.array(name, loss(student, ops.stop_gradient(teacher)), student)
    arguments.vector(name, losses, student.shape[0])
    return ops.where(both, ops.astype(losses, dtype), 0.0)


def _levels(
    arguments: Arguments, contrast: _Contrast, rows: PairRows, labels: Any
) -> Float[Array, " batch"]:
    """Return the losses of one pair: of samples, or of their means and of their parts."""
    ops, dtype = arguments.ops, contrast.dtype
    if len(rows.student.shape) == 2:
        return _pair(arguments, contrast, rows, labels)
    student, teacher = (ops.astype(x, dtype) for x in rows[:2])
    count, parts = ops.size(student, 0), ops.size(student, 1)
    divisor = ops.maximum(ops.astype(ops.asarray(parts, student), dtype), 1.0)

    def mean(x: Float[Array, "batch parts width"]) -> Float[Array, "batch width"]:
        return ops.sum(x, 1) / divisor

    if contrast.kind == "logits":
        mean_teacher = masked_log(ops, mean(ops.softmax(raised(ops, teacher), 2)))
    else:
        mean_teacher = mean(teacher)
    means = PairRows(mean(student), mean_teacher, rows.both)
    losses = _pair(arguments, contrast, means, labels)
    if is_zero(contrast.weight_local):
        return losses
    sample = ops.arange(count * parts, student) // parts
    if labels is not None:
        labels = ops.take(ops.asarray(labels, student), sample)
    student, teacher = (ops.reshape(x, (-1, x.shape[2])) for x in (student, teacher))
    flat = PairRows(student, teacher, ops.take(rows.both, sample))
    local = _pair(arguments, contrast, flat, labels)
    weight = arguments.scalar("weight_local", contrast.weight_local, student, dtype)
    return losses + weight * mean(ops.reshape(local, (count, parts)))


def _pair(
    arguments: Arguments, contrast: _Contrast, rows: PairRows, labels: Any
) -> Float[Array, " rows"]:
    """Return the loss of each row of one level of one pair."""
    objective = contrast.objective
    if contrast.kind == "logits":
        arrays = (rows.student, rows.teacher, labels, None, rows.both)
        losses = evaluate(arguments.function, arrays, objective, "none")
    else:
        batch = embedding_batch(arguments, rows[:2], labels, None, rows.both)
        losses = contrast_embeddings(arguments, batch, objective, contrast.logit_scale)
    return arguments.ops.astype(losses, contrast.dtype)


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


def _check_pairs(function: str, pairs: Any, others: Any) -> None:
    """Raise unless there is a pair, each of two names, with a weight and a function."""
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


def _labelled(
    arguments: Arguments, labels: Any, like: Array, kind: str, config: MCLDConfig
) -> Bool[Array, " batch"] | None:
    """Return the rows whose int label is not to be left out; None where that is every row."""
    if labels is None or len(arguments.array("labels", labels, like).shape) != 1:
        return None
    labels = arguments.ids("labels", labels, like)
    return labels >= 0 if kind == "embeddings" else labels != config.ignore_index

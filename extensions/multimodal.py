"""Several modalities: each of the student's against each of the teacher's, with rows missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mcld_core.arguments import (
    Batch,
    check_device,
    check_reduction,
    check_rows,
    reduce_rows,
    unless_all,
)
from mcld_core.backends import Backend, backend_for
from mcld_core.config import MCLDConfig
from mcld_core.extensions._arguments import check_weight, fits, row_ids
from mcld_core.extensions._embeddings import embedding_contrast as embedding_contrast
from mcld_core.extensions.teachers.rows import like_of, row_weights
from mcld_core.formulas.contrast import MASKED
from mcld_core.formulas.objective import is_zero
from mcld_core.losses import mcld_loss
from mcld_core.schedule import number
from mcld_core.typing import Array, Bool, Float, Labels, Reduction, Scalar

Pair = tuple[str, str]
"""A modality of the student and one of the teacher."""

RowLoss = Callable[[Array, Array], Array]
"""``function(student_rows, teacher_rows)`` → (batch,) losses."""


class Modality(NamedTuple):
    """One modality of one side, 0 in the rows that miss it."""

    rows: Float[Array, "batch width"] | Float[Array, "batch parts width"]
    present: Bool[Array, "batch"]  # noqa: F821


def multimodal_mcld_loss(
    student: Mapping[str, Array],
    teacher: Mapping[str, Array],
    labels: Labels | None = None,
    *,
    pairs: Mapping[Pair, Scalar] | None = None,
    kind: str = "logits",
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    logit_scale: Scalar | None = None,
    student_where: Mapping[str, Bool[Array, "batch"]] | None = None,  # noqa: F821
    teacher_where: Mapping[str, Bool[Array, "batch"]] | None = None,  # noqa: F821
    weight_local: Scalar = 1.0,
    other_losses: Mapping[Pair, tuple[Scalar, RowLoss]] | None = None,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, "batch"] | None = None,  # noqa: F821
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
    check_reduction(function, reduction)
    if kind not in ("logits", "embeddings"):
        raise ValueError(f"{function}: kind needs 'logits' or 'embeddings'; got {kind!r}")
    if kind == "logits" and logit_scale is not None:
        raise ValueError(
            f"{function}: logit_scale is for kind='embeddings'; got it with logits, whose scale "
            "is their own (config.temperature divides S)"
        )
    if pairs is None:
        pairs = {(a, b): 1.0 for a in student for b in teacher}
    others = {} if other_losses is None else other_losses
    if not pairs and not others:
        raise ValueError(f"{function}: pairs needs at least one pair of modalities; got none")
    our_masks: Mapping[str, Any] = {} if student_where is None else student_where
    their_masks: Mapping[str, Any] = {} if teacher_where is None else teacher_where
    for side, modalities, names in (
        ("student", student, [a for a, _ in (*pairs, *others)] + list(our_masks)),
        ("teacher", teacher, [b for _, b in (*pairs, *others)] + list(their_masks)),
    ):
        for name in names:
            if name not in modalities:
                raise ValueError(
                    f"{function}: {side} has no modality {name!r}; it has {sorted(modalities)}"
                )
    for pair, weight in (*pairs.items(), *((pair, weight) for pair, (weight, _) in others.items())):
        check_weight(function, f"the weight of {pair!r}", weight)
    check_weight(function, "weight_local", weight_local)
    values = (*student.values(), *teacher.values(), *our_masks.values(), *their_masks.values())
    ops = backend_for(function, *values, labels, sample_weight, logit_scale)
    like = like_of(ops, *values)
    ours = {
        name: _modality(function, ops, f"student[{name!r}]", x, our_masks.get(name), like)
        for name, x in student.items()
    }
    theirs = {
        name: _modality(function, ops, f"teacher[{name!r}]", x, their_masks.get(name), like)
        for name, x in teacher.items()
    }
    first = next(iter(ours.values())).rows
    labelled = None if labels is None else _labelled(function, ops, labels, first, kind, config)
    if labelled is not None:
        ours = {name: _where(ops, one, labelled) for name, one in ours.items()}
        theirs = {name: _where(ops, one, labelled) for name, one in theirs.items()}
    for a, b in (*pairs, *others):
        shapes = tuple(ours[a].rows.shape), tuple(theirs[b].rows.shape)
        if not fits(shapes[0][1:], shapes[1][1:]):
            raise ValueError(
                f"{function}: student[{a!r}] and teacher[{b!r}] need the same width (and parts); "
                f"got {shapes[0]} and {shapes[1]}. Bring one to the other's width first: a "
                "projection in the model, or mcld_core.select_classes"
            )
    dtypes = {ops.dtype(one.rows) for one in ours.values()}
    dtype = "float64" if "float64" in dtypes else "float32"

    def rows_of(s: Array, t: Array, labels: Any, where: Array) -> Array:
        if kind == "embeddings":
            return embedding_contrast(
                s, t, labels, config=config, logit_scale=logit_scale, progress=progress,
                where=where, reduction="none",
            )  # fmt: skip
        return mcld_loss(
            s, t, labels, config=config, progress=progress, where=where, reduction="none"
        )

    total: Any = 0.0
    share: Any = 0.0
    found: dict[Pair, tuple[Array, Array]] = {}
    for (a, b), weight in pairs.items():
        both = ours[a].present & theirs[b].present
        rows = _levels(
            ops, rows_of, ours[a].rows, theirs[b].rows, labels, both, kind, weight_local, dtype
        )
        found[a, b] = rows, both
        weight = number(ops, weight, dtype, first)
        total = total + weight * rows
        share = share + weight * ops.astype(both, dtype)
    if pairs:
        total = ops.where(share > 0, total / ops.where(share > 0, share, 1.0), 0.0)
    counted = share > 0 if pairs else None
    for (a, b), (weight, loss) in others.items():
        both = ours[a].present & theirs[b].present
        s, t = (_where(ops, one, both).rows for one in (ours[a], theirs[b]))
        rows = loss(s, ops.stop_gradient(t))
        check_rows(function, f"other_losses[{a!r}, {b!r}]", rows, first.shape[0])
        rows = ops.where(both, ops.astype(rows, dtype), 0.0)
        total = total + number(ops, weight, dtype, first) * rows
        counted = both if counted is None else counted | both
    weights = None
    if sample_weight is not None:
        every = counted
        for _, both in found.values():  # a pair of weight 0 has a term, too
            every = every | both
        weights = row_weights(function, ops, "sample_weight", sample_weight, every, first, dtype)

    def reduced(rows: Array, counts: Array) -> Array:
        weight = ops.astype(counts, dtype)
        weight = weight if weights is None else weight * weights
        return reduce_rows(ops, rows, Batch(rows, rows, dtype, None, None, weight), reduction)

    value = reduced(total, counted)
    if not return_terms:
        return value
    return value, {pair: ops.stop_gradient(reduced(*parts)) for pair, parts in found.items()}


def feature_mse(student_rows: Array, teacher_rows: Array) -> Float[Array, "batch"]:  # noqa: F821
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
    ops = backend_for("feature_mse", student_rows, teacher_rows)
    like = like_of(ops, student_rows, teacher_rows)
    student, teacher = ops.asarray(student_rows, like), ops.asarray(teacher_rows, like)
    if len(student.shape) != 2 or tuple(student.shape)[1] != tuple(teacher.shape)[1]:
        raise ValueError(
            "feature_mse: student_rows and teacher_rows need shape (batch, width), one width; got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    dtype = "float64" if ops.dtype(student) == "float64" else "float32"
    difference = ops.astype(student, dtype) - ops.stop_gradient(ops.astype(teacher, dtype))
    return ops.sum(difference * difference, 1) / float(student.shape[1])


def _levels(
    ops: Backend,
    rows_of: Callable[[Array, Array, Any, Array], Array],
    student: Array,
    teacher: Array,
    labels: Any,
    both: Array,
    kind: str,
    weight_local: Scalar,
    dtype: str,
) -> Float[Array, "batch"]:  # noqa: F821
    """Return the rows of one pair: of samples, or of their means and of their parts."""
    if len(student.shape) == 2:
        return ops.astype(rows_of(student, teacher, labels, both), dtype)
    student, teacher = ops.astype(student, dtype), ops.astype(teacher, dtype)
    count, parts, width = ops.size(student, 0), ops.size(student, 1), student.shape[2]
    divisor = number(ops, parts, dtype, student)
    mean_student = ops.sum(student, 1) / divisor
    if kind == "logits":
        teacher = ops.maximum(teacher, MASKED)
        p = ops.sum(ops.softmax(teacher, 2), 1) / divisor
        mean_teacher = ops.log(ops.where(p > 0, p, 1.0)) + ops.where(p > 0, 0.0 * p, MASKED)
    else:
        mean_teacher = ops.sum(teacher, 1) / divisor
    rows = rows_of(mean_student, mean_teacher, labels, both)
    if is_zero(weight_local):
        return rows
    sample = ops.arange(count * parts, student) // parts
    if labels is not None:
        labels = ops.take(ops.asarray(labels, student), sample)
    local = rows_of(
        ops.reshape(student, (-1, width)),
        ops.reshape(teacher, (-1, width)),
        labels,
        ops.take(both, sample),
    )
    local = ops.sum(ops.reshape(local, (count, parts)), 1) / divisor
    return rows + number(ops, weight_local, dtype, student) * local


def _modality(
    function: str, ops: Backend, argument: str, x: Any, where: Any, like: Array | None
) -> Modality:
    """Check and convert one modality; its missing rows become 0."""
    rows = ops.asarray(x, like)
    shape = tuple(rows.shape)
    if len(shape) not in (2, 3) or not shape[-1] or "float" not in ops.dtype(rows):
        raise ValueError(
            f"{function}: {argument} needs shape (batch, width) or (batch, parts, width), the "
            f"width known, and a float dtype; got shape {shape}, {ops.dtype(rows)}"
        )
    if like is not None:
        check_device(function, ops, argument, rows, like)
        if not fits(shape[:1], tuple(like.shape)[:1]):
            raise ValueError(
                f"{function}: all modalities need the same batch; got {argument} of shape {shape} "
                f"beside {tuple(like.shape)}. Rows that miss a modality are marked by its where"
            )
    every = Modality(rows, ops.arange(ops.size(rows, 0), rows) >= 0)
    if where is None:
        return every
    present = ops.asarray(where, rows)
    check_rows(function, f"where of {argument}", present, shape[0])
    if ops.dtype(present) != "bool":
        raise TypeError(
            f"{function}: where of {argument} needs dtype bool (True = it has the modality); "
            f"got {ops.dtype(present)}"
        )
    return _where(ops, every, present)


def _where(ops: Backend, modality: Modality, kept: Array) -> Modality:
    """Drop rows: 0 there, so that their content changes neither value nor gradient."""
    rows = modality.rows
    keep = ops.reshape(kept, (-1, *(1 for _ in rows.shape[1:])))
    return Modality(ops.where(keep, rows, 0.0), modality.present & kept)


def _labelled(
    function: str, ops: Backend, labels: Any, first: Array, kind: str, config: MCLDConfig
) -> Bool[Array, "batch"] | None:  # noqa: F821
    """Return the rows whose int label is not to be left out; None where that is every row."""
    if len(ops.asarray(labels, first).shape) != 1:
        return None
    labels = row_ids(function, ops, "labels", labels, first)
    return unless_all(ops, labels >= 0 if kind == "embeddings" else labels != config.ignore_index)

"""What tokens and time steps share: rows that lie in sequences, contrasted on three levels.

A row is a token or a time step, a sequence is a text or a window. Their losses are sums of
`mcld_core.mcld_loss`, called on the flattened rows, on these with ``pairs`` = same sequence, and on
one mean row a sequence.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mcld_core import MCLDConfig, TeacherKeys, mcld_loss
from mcld_core.arguments import (
    Arguments,
    Batch,
    as_number,
    fits,
    is_plain,
    keep_rows,
    log_of,
    reduce_rows,
)
from mcld_core.backends import Backend
from mcld_core.typing import Array, Bool, Float, Int, Labels, Reduction, Scalar


class SequenceArguments(Arguments):
    """The arrays of one call, whose logits have three axes (batch, time, classes)."""

    def flat_mask(self, name: str, mask: Any, logits: Array) -> Bool[Array, " rows"] | None:
        """Return a mask, bool or of 0 and 1, flat; raise for another shape, dtype or device."""
        if mask is None:
            return None
        mask = self.shaped(name, mask, logits, logits.shape[:-1])
        dtype = self.ops.dtype(mask)
        if "int" not in dtype and dtype != "bool":
            raise self.wrong_type(f"{name} needs dtype bool or int (True or 1 = keep)", dtype)
        return self.ops.reshape(self.ops.astype(mask, "bool"), (-1,))

    def flat_labels(
        self, name: str, labels: Any, logits: Array
    ) -> Int[Array, " rows"] | Float[Array, "rows classes"]:
        """Return int or soft labels, flat; raise for a shape that the logits do not have."""
        labels = self.array(name, labels, logits)
        ours, shape = tuple(labels.shape), tuple(logits.shape)
        if not fits(ours, shape[:2]) and not fits(ours, shape):
            raise self.wrong(f"{name} need shape {shape[:2]}, or soft labels {shape}", ours)
        return flat(self.ops, labels)

    def rows(
        self, student: Array, teacher: Array, labels: Any, kept: Any, config: MCLDConfig
    ) -> Batch:
        """Return both logits row by row, checked, with the rows' labels and mask, flat already."""
        if labels is None and not is_plain(config.weight_ce, 0):
            needs = "weight_ce needs labels to take the cross-entropy of"
            raise self.wrong(needs, "None", "Pass labels, or leave weight_ce at 0")
        if len(student.shape) == 3:
            student, teacher = flat(self.ops, student), flat(self.ops, teacher)
        return self.batch((student, teacher, labels, None, kept), config.ignore_index)


def sequence_of_row(
    ops: Backend, logits: Float[Array, "batch time classes"]
) -> Int[Array, " rows"]:
    """Return the number of the sequence that each row lies in."""
    count, length = ops.size(logits, 0), ops.size(logits, 1)
    divisor = max(length, 1) if isinstance(length, int) else length
    return ops.arange(count * length, logits) // divisor


def flat(ops: Backend, x: Array) -> Array:
    """Return (batch, time) or (batch, time, classes) with the first two axes as one."""
    rows = ops.size(x, 0) * ops.size(x, 1)  # -1 is not a size where there are no rows
    return ops.reshape(x, (rows, *x.shape[2:]))


def following(
    ops: Backend,
    logits: Float[Array, "batch time classes"],
    labels: Int[Array, " rows"] | Float[Array, "rows classes"] | None,
    kept: Bool[Array, " rows"] | None,
) -> tuple[Any, Bool[Array, " rows"]]:
    """Label each row by what stands after it in its sequence; it counts where both do.

    So the last row never counts. The labels move, not the logits: no copy of the logits.
    """
    length = ops.size(logits, 1)
    size = ops.size(logits, 0) * length
    place = ops.arange(size, logits)
    after = ops.minimum(place + 1, size - 1)
    has_next = place < 0 if isinstance(length, int) and not length else (place + 1) % length != 0
    labels = None if labels is None else ops.take(labels, after)
    return labels, has_next if kept is None else kept & ops.take(kept, after) & has_next


def contrast_sequences(
    ops: Backend,
    rows: Batch,
    student: Float[Array, "batch time classes"],
    labels: tuple[Labels, Labels] | None,
    row_contrast: Scalar | None,
    category_by_sequence: bool,
    overlapping: Bool[Array, "batch batch"] | None = None,
    *,
    config: MCLDConfig,
    **given: Any,
) -> tuple[Float[Array, " rows"], dict[str, Float[Array, " rows"]]]:
    """Return the loss and its terms, one value a row of ``student``, for `reduce_terms`.

    The formula is that of `window_mcld_loss`, with ``row_contrast`` for γ. What is one value of the
    batch is added to each row that counts, and then reduced with it. ``labels`` are of the
    sequences as anchors and as keys; None: the arg max of the teacher's mean. Sequences that
    overlap never push each other away. ``given`` are arguments of every call of `mcld_loss`.
    """
    of_rows = {"where": rows.kept, "reduction": "none", "return_terms": True, **given}
    logits = rows.student, rows.teacher, rows.labels
    weights = config.weight_instance, config.weight_category if category_by_sequence else 0.0
    at_sequences = config.only(instance=weights[0], category=weights[1])
    at_rows = replace(config, weight_instance=0.0)
    at_rows = replace(at_rows, weight_category=0.0) if category_by_sequence else at_rows
    values, terms = mcld_loss(*logits, config=at_rows, **of_rows)
    terms["token"] = terms["instance"]
    if row_contrast is None:
        row_contrast = 1.0 / (config.sample_temperature * config.sample_temperature)
    if not (is_plain(row_contrast, 0) or is_plain(config.weight_sample, 0)):
        within = config.only(instance=config.weight_sample * row_contrast)
        place = sequence_of_row(ops, student)
        pairs = place[:, None] == place[None, :]
        contrast, of_contrast = mcld_loss(*logits, config=within, pairs=pairs, **of_rows)
        values, terms["token"] = values + contrast, of_contrast["instance"]
    if not all(is_plain(weight, 0) for weight in weights):
        means = mean_rows(ops, rows, student, config)
        own, key_labels = labels or (means.labels, means.labels)
        means = means._replace(labels=own)
        if config.compares_distributions:  # the means are at that temperature already
            at_sequences = replace(at_sequences, key_temperature=1.0)
        keys = TeacherKeys(means.teacher, key_labels, means.kept)
        given |= {"config": at_sequences, "keys": keys}
        whole, of_whole = contrast_apart(ops, means, overlapping, **given)
        values, terms["instance"] = values + whole, terms["instance"] + of_whole["instance"]
        if category_by_sequence:
            terms["category"] = terms["category"] + of_whole["category"]
    return values, terms


def contrast_apart(
    ops: Backend,
    rows: Batch,
    overlapping: Bool[Array, "batch batch"] | None,
    *,
    config: MCLDConfig,
    keys: TeacherKeys | None = None,
    **given: Any,
) -> tuple[Array, dict[str, Array]]:
    """Return `mcld_loss` and its terms, in which rows that overlap do not push each other away.

    In the category-wise term a row that overlaps pulls where it shares the label, hence two calls.
    """
    given |= {"keys": keys, "where": rows.kept, "return_terms": True}
    logits = rows.student, rows.teacher, rows.labels
    if overlapping is None:
        return mcld_loss(*logits, config=config, **given)
    pushes = None if is_plain(config.weight_instance, 0) else ~overlapping
    others = replace(config, weight_category=0.0)
    loss, terms = mcld_loss(*logits, config=others, pairs=pushes, **given)
    if is_plain(config.weight_category, 0):
        return loss, terms
    compared: Any = None
    if config.category_contrast == "labels":
        ours: Any = rows.labels
        theirs: Any = ours if keys is None else keys.labels
        if len(ours.shape) == 1:
            compared = ~overlapping | (ours[:, None] == theirs[None, :])
        else:  # soft ones that agree at all
            ours, theirs = (ops.astype(y, rows.dtype) for y in (ours, theirs))
            compared = ~overlapping | (ops.matmul(ours, ops.matrix_transpose(theirs)) > 0)
    category = config.only(category=config.weight_category)
    more, of_category = mcld_loss(*logits, config=category, pairs=compared, **given)
    return loss + more, terms | {"category": of_category["category"]}


def reduce_terms(
    arguments: SequenceArguments,
    rows: Batch,
    student: Float[Array, "batch classes"] | Float[Array, "batch time classes"],
    found: tuple[Float[Array, " rows"], dict[str, Array]],
    reduction: Reduction,
    normalizer: Scalar | None,
    return_terms: bool,
) -> Any:
    """Reduce a loss and, if they are to be returned, its terms, of which the ramp is one number.

    ``"none"`` gives (batch, time), 0 where a row does not count.
    """
    ops = arguments.ops
    if normalizer is not None:
        normalizer = arguments.scalar("normalizer", normalizer, rows.student, rows.dtype)

    def reduced(values: Float[Array, " rows"]) -> Array:
        values = reduce_rows(ops, values, rows.weight, reduction, normalizer)
        if reduction == "none" and len(student.shape) == 3:
            return ops.reshape(values, (ops.size(student, 0), ops.size(student, 1)))
        return values

    loss, terms = found
    if not return_terms:
        return reduced(loss)
    return reduced(loss), {name: x if name == "ramp" else reduced(x) for name, x in terms.items()}


def mean_rows(
    ops: Backend, rows: Batch, student: Float[Array, "batch time classes"], config: MCLDConfig
) -> Batch:
    """Return the mean student logits and the mean key of the kept rows of each sequence.

    Sequences without such a row are not kept; a label is the arg max of the key. Where keys are
    distributions the teacher's row is the logarithm of its mean probabilities at the key
    temperature, so that its softmax is that mean; otherwise it is the mean of its logits.
    """
    count, length = ops.size(student, 0), ops.size(student, 1)
    kept = ops.arange(count * length, rows.student) >= 0 if rows.kept is None else rows.kept
    size = ops.sum(ops.reshape(ops.astype(kept, rows.dtype), (count, length)), 1)
    valid = size > 0
    size = ops.where(valid, size, 1.0)[:, None]

    def mean(x: Float[Array, "rows classes"]) -> Float[Array, "batch classes"]:
        x = ops.reshape(keep_rows(ops, x, kept), (count, length, x.shape[1]))
        return ops.sum(x, 1) / size

    teacher = keep_rows(ops, ops.astype(rows.teacher, rows.dtype), kept)
    if config.compares_distributions:
        tau = as_number(ops, config.key_temperature, teacher, rows.dtype)
        teacher = log_of(ops, mean(ops.softmax(teacher / tau, 1)))
    else:
        teacher = mean(teacher)
    means = mean(ops.astype(rows.student, rows.dtype))
    return Batch(means, teacher, rows.dtype, ops.argmax(teacher, 1), valid, None)

"""What tokens and time steps share: rows that lie in sequences, contrasted on three levels.

A row is a token or a time step, a sequence is a text or a window. Everything is the one objective
of `mcld_core.losses`, called twice: on the flattened rows, whose instance-wise contrast stays
within their own sequence, and on one mean row a sequence.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from mcld_core.arguments import Arguments, Batch, as_number, fits, keep_rows, reduce_rows
from mcld_core.backends import Backend
from mcld_core.config import MCLDConfig
from mcld_core.formulas.divergence import masked_log
from mcld_core.formulas.objective import ExcludedKeys, TermWeights, is_zero
from mcld_core.formulas.similarity import key_vectors
from mcld_core.formulas.stored import StoredRows, stored_probabilities
from mcld_core.losses import Objective, evaluate_batch
from mcld_core.typing import Array, Bool, Float, Int, Reduction, Scalar


class Sequences(NamedTuple):
    """Sequences whose arguments are checked: their rows, one after the other."""

    rows: Batch
    count: Any
    """The number of sequences (a tensor where TensorFlow does not know it when tracing)."""
    length: Any
    """The number of rows of each, padding included."""
    like: Float[Array, "batch time classes"]
    """The student's logits as they came."""


class Levels(NamedTuple):
    """What is contrasted on which level."""

    objective: Objective
    """Of rows and of sequences; its excluded keys are whole sequences. With ``trains_keys`` the
    teacher's rows are keys alone: no divergence from them."""
    labels: Int[Array, " batch"] | Float[Array, "batch classes"] | None
    """Of the sequences: ids of any kind, negative for none; or soft; None: no target mask."""
    category_by_sequence: bool
    row_contrast: Scalar | None
    """γ, the weight of the contrast within a sequence beside the divergence; None: 1/T²."""


class SequenceArguments(Arguments):
    """The arrays of one call, whose logits have three axes (batch, time, classes)."""

    def flat_mask(
        self, name: str, mask: Any, logits: Array, axes: int = 2
    ) -> Bool[Array, " rows"] | None:
        """Return a mask, bool or of 0 and 1, flat; raise for another shape, dtype or device."""
        if mask is None:
            return None
        mask = self.ops.asarray(mask, logits)
        self.device(name, mask, logits)
        if not fits(mask.shape, logits.shape[:axes]):
            raise ValueError(
                f"{self.function}: {name} needs shape {tuple(logits.shape[:axes])}, one entry a "
                f"row of the logits; got {tuple(mask.shape)}"
            )
        dtype = self.ops.dtype(mask)
        if dtype != "bool":
            if "int" not in dtype:
                raise TypeError(
                    f"{self.function}: {name} needs dtype bool or int (True or 1 = keep); got "
                    f"{dtype}"
                )
            mask = mask != 0
        return self.ops.reshape(mask, (-1,))

    def flat_labels(
        self, name: str, labels: Any, logits: Array
    ) -> Int[Array, " rows"] | Float[Array, "rows classes"]:
        """Return int or soft labels, flat; raise for a shape that the logits do not have."""
        labels = self.ops.asarray(labels, logits)
        ours, shape = tuple(labels.shape), tuple(logits.shape)
        if not fits(ours, shape[:2]) and not fits(ours, shape):
            raise ValueError(
                f"{self.function}: {name} need shape {shape[:2]}, one a row of the logits, or "
                f"soft labels {shape}; got {ours}"
            )
        return flat(self.ops, labels)


def sequence_of_row(ops: Backend, count: Any, length: Any, like: Array) -> Int[Array, " rows"]:
    """Return the number of the sequence that each of ``count · length`` rows lies in."""
    divisor = max(length, 1) if isinstance(length, int) else length
    return ops.arange(count * length, like) // divisor


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
    has_next = (place + 1) % length != 0 if not is_zero(length) else place < 0
    labels = None if labels is None else ops.take(labels, after)
    return labels, has_next if kept is None else kept & ops.take(kept, after) & has_next


def contrast_sequences(
    arguments: Arguments, sequences: Sequences, levels: Levels, reduction: Reduction
) -> tuple[Array, dict[str, Array]]:
    """Return the loss and its terms.

    ``w_ins · mean_b InfoNCE(s̄_b; p̄) + w_sam · mean_i [ L_sam,i + γ InfoNCE(s_i; keys of the same
    sequence) ] + ramp · w_cat · mean L_cat + w_ce · mean_i L_ce,i``, means over what is kept.
    What is one value of the batch is added to each row that counts, and then reduced with it.
    """
    ops, gamma, normalizer = arguments.ops, levels.row_contrast, levels.objective.normalizer
    common = levels.objective._replace(normalizer=None)
    config, weights = common.config, common.weights
    if gamma is None:
        gamma = 1.0 / (config.sample_temperature * config.sample_temperature)
    of_rows, of_sequences = weights.category, 0.0
    if levels.category_by_sequence:
        of_rows, of_sequences = of_sequences, of_rows
    sample = 0.0 if common.trains_keys else weights.sample
    sequence = sequence_of_row(ops, *sequences[1:3], sequences.rows.student)
    by_row = common._replace(
        weights=TermWeights(weights.sample * gamma, sample, of_rows, weights.ce),
        excluded=ExcludedKeys(_in_another, (sequence,)),
    )
    values, terms = evaluate_batch(arguments, sequences.rows, by_row, "none", return_terms=True)
    ramp = terms.pop("ramp")
    terms["token"] = terms.pop("instance")
    terms["instance"] = 0.0 * terms["token"]
    if not (is_zero(weights.instance) and is_zero(of_sequences)):
        trains_keys = common.trains_keys or ops.is_trained(config.key_temperature)
        by_probability = config.similarity == "probability"
        by_sequence = common._replace(
            config=replace(
                config,
                # where the keys are probabilities, they are means at that temperature already
                key_temperature=1.0 if by_probability else config.key_temperature,
                target_mask=config.target_mask and levels.labels is not None,
            ),
            weights=TermWeights(weights.instance, category=of_sequences),
            trains_keys=trains_keys,
        )
        means = mean_rows(ops, sequences, levels.labels, config, trains_keys)
        whole, of_whole = evaluate_batch(arguments, means, by_sequence, return_terms=True)
        values = values + whole
        terms["instance"] = terms["instance"] + of_whole["instance"]
        if levels.category_by_sequence:
            terms["category"] = 0.0 * terms["category"] + of_whole["category"]

    def reduced(values: Array) -> Array:
        return reduce_sequences(arguments, sequences, values, reduction, normalizer)

    terms = {name: reduced(x) for name, x in terms.items()}
    return reduced(values), {**terms, "ramp": ramp}


def reduce_sequences(
    arguments: Arguments,
    sequences: Sequences,
    values: Float[Array, " rows"],
    reduction: Reduction,
    normalizer: Scalar | None,
) -> Array:
    """Reduce one value a row; ``"none"`` gives (batch, time), 0 where a row does not count."""
    ops, rows = arguments.ops, sequences.rows
    if normalizer is not None:
        normalizer = arguments.scalar("normalizer", normalizer, rows.student, rows.dtype)
    values = reduce_rows(ops, values, rows.weight, reduction, normalizer)
    if reduction == "none":
        return ops.reshape(values, (sequences.count, sequences.length))
    return values


def mean_rows(
    ops: Backend,
    sequences: Sequences,
    labels: Array | None,
    config: MCLDConfig,
    trains_keys: bool = False,
) -> Batch:
    """Return one row a sequence: mean student logits and mean key of its kept rows.

    Under ``"probability"`` the teacher's row is the logarithm of its mean probabilities, so that
    its softmax is that mean; under the other similarities the mean of its logits. Negative int
    labels become -1, which no other row shares.
    """
    rows = sequences.rows
    kept = ops.arange(sequences.count * sequences.length, rows.student) >= 0
    kept = ops.astype(kept if rows.kept is None else rows.kept, rows.dtype)
    size = ops.sum(ops.reshape(kept, sequences[1:3]), 1)
    valid = size > 0
    size = ops.where(valid, size, 1.0)[:, None]
    student = _mean(ops, sequences, ops.astype(rows.student, rows.dtype), size)
    temperature = as_number(ops, config.key_temperature, rows.student, rows.dtype)
    if isinstance(rows.teacher, StoredRows):
        teacher = _mean_of_stored(ops, sequences, size, temperature)
    else:
        teacher = keep_rows(ops, ops.astype(rows.teacher, rows.dtype), rows.kept)
        if config.similarity == "probability":
            teacher = key_vectors(ops, teacher, "probability", temperature)
        teacher = _mean(ops, sequences, teacher, size)
    if config.similarity == "probability":
        teacher = masked_log(ops, teacher)
    if labels is None:
        labels = ops.arange(sequences.count, student)
    elif len(labels.shape) == 1:
        labels = ops.maximum(labels, -1)
    teacher = teacher if trains_keys else ops.stop_gradient(teacher)
    return Batch(student, teacher, rows.dtype, labels, valid, ops.astype(valid, rows.dtype))


def _mean(
    ops: Backend, sequences: Sequences, x: Float[Array, "rows classes"], size: Any
) -> Float[Array, "batch classes"]:
    x = keep_rows(ops, x, sequences.rows.kept)
    return ops.sum(ops.reshape(x, (sequences.count, sequences.length, x.shape[1])), 1) / size


def _mean_of_stored(
    ops: Backend, sequences: Sequences, size: Any, temperature: Scalar
) -> Float[Array, "batch classes"]:
    """Return the mean probabilities of each sequence's stored rows."""
    rows = sequences.rows
    classes, k = rows.student.shape[1], rows.teacher.indices.shape[1]
    weights, rest = stored_probabilities(ops, rows.teacher, rows.dtype, classes, temperature)
    weights = keep_rows(ops, weights, rows.kept)
    rest = 0.0 * weights[:, :1] if rest is None else keep_rows(ops, rest, rows.kept)
    per_sequence = (sequences.count, sequences.length * k)
    columns = 0.0 * ops.astype(ops.arange(classes, weights), rows.dtype)[None, :]
    total = ops.add_along_axis(
        _mean(ops, sequences, rest, 1.0) + columns,
        ops.reshape(rows.teacher.indices, per_sequence),
        ops.reshape(weights, per_sequence),
    )
    return total / size


def _in_another(anchor: tuple[Array, ...], key: tuple[Array, ...]) -> Array:
    return anchor[0] != key[0]

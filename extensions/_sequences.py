"""What tokens and time steps share: rows that lie in sequences, contrasted on three levels.

A row is a token or a time step, a sequence is a text or a window. Everything is the one objective
of `mcld_core.losses`, called twice: on the flattened rows, whose instance-wise contrast stays
within their own sequence, and on one mean row a sequence.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from mcld_core.arguments import Batch, check_device, keep_rows, prepare
from mcld_core.backends import Backend
from mcld_core.config import MCLDConfig
from mcld_core.extensions._arguments import fits
from mcld_core.formulas.contrast import MASKED
from mcld_core.formulas.objective import Apart, Weights, is_zero
from mcld_core.formulas.similarity import key_vectors
from mcld_core.losses import evaluate_batch
from mcld_core.typing import Array, Bool, Float, Int, Scalar


class Sequences(NamedTuple):
    """Sequences whose arguments are checked: their rows, one after the other."""

    rows: Batch
    count: Any
    """The number of sequences (a tensor where TensorFlow does not know it when tracing)."""
    length: Any
    """The number of rows of each, padding included."""

    def of_row(self, ops: Backend) -> Int[Array, "rows"]:  # noqa: F821
        """Return the number of the sequence that each row lies in."""
        return ops.arange(ops.size(self.rows.student, 0), self.rows.student) // self.length


class Groups(NamedTuple):
    """What is known of the sequences as wholes."""

    labels: Int[Array, "batch"] | Float[Array, "batch classes"] | None  # noqa: F821
    """Ids of any kind, negative for none; or soft labels; None: no target mask."""
    apart: Apart | None = None


def tensors(ops: Backend, student: Any, teacher: Any) -> tuple[Array, Array]:
    """Convert the first arguments, each beside the other where only that one is a tensor."""
    student = ops.asarray(student, teacher if ops.is_tensor(teacher) else None)
    return student, ops.asarray(teacher, student)


def flat_mask(
    function: str, ops: Backend, argument: str, mask: Any, logits: Array, axes: int
) -> Bool[Array, "rows"]:  # noqa: F821
    """Return a mask of the logits' first axes, bool or of 0 and 1, as one bool a row.

    Raises:
        ValueError, TypeError: another shape or dtype.
    """
    mask = ops.asarray(mask, logits)
    check_device(function, ops, argument, mask, logits)
    if not fits(mask.shape, logits.shape[:axes]):
        raise ValueError(
            f"{function}: {argument} needs shape {tuple(logits.shape[:axes])}, one entry a row of "
            f"the logits; got {tuple(mask.shape)}"
        )
    dtype = ops.dtype(mask)
    if dtype != "bool":
        if "int" not in dtype:
            raise TypeError(
                f"{function}: {argument} needs dtype bool or int (True or 1 = keep); got {dtype}"
            )
        mask = mask != 0
    return ops.reshape(mask, (-1,))


def flat_labels(
    function: str, ops: Backend, argument: str, labels: Any, logits: Array
) -> Int[Array, "rows"] | Float[Array, "rows classes"]:  # noqa: F821
    """Return (batch, time) int or (batch, time, classes) soft labels, flattened.

    Raises:
        ValueError: another shape.
    """
    labels = ops.asarray(labels, logits)
    ours, shape = tuple(labels.shape), tuple(logits.shape)
    if not fits(ours, shape[:2]) and not fits(ours, shape):
        raise ValueError(
            f"{function}: {argument} need shape {shape[:2]}, one a row of the logits, or soft "
            f"labels {shape}; got {ours}"
        )
    return ops.reshape(labels, (-1,) if len(ours) == 2 else (-1, shape[2]))


def following(
    ops: Backend,
    logits: Float[Array, "batch time classes"],
    labels: Int[Array, "rows"] | Float[Array, "rows classes"] | None,  # noqa: F821
    kept: Bool[Array, "rows"] | None,  # noqa: F821
) -> tuple[Any, Bool[Array, "rows"]]:  # noqa: F821
    """Label each row by what stands after it in its sequence; it counts where both do.

    So the last row never counts. The labels move, not the logits: no copy of the logits.
    """
    length = ops.size(logits, 1)
    size = ops.size(logits, 0) * length
    place = ops.arange(size, logits)
    after = ops.minimum(place + 1, size - 1)
    has_next = place % length != length - 1
    labels = None if labels is None else ops.take(labels, after)
    return labels, has_next if kept is None else kept & ops.take(kept, after) & has_next


def prepare_sequences(
    function: str,
    ops: Backend,
    student: Float[Array, "batch time classes"],
    teacher: Float[Array, "batch time classes"],
    labels: Int[Array, "rows"] | Float[Array, "rows classes"] | None,  # noqa: F821
    kept: Bool[Array, "rows"] | None,  # noqa: F821
    ignore_index: int,
) -> Sequences:
    """Flatten logits of three axes; check them with what is flat already."""
    classes = student.shape[2]
    batch = prepare(
        function,
        ops,
        ops.reshape(student, (-1, classes)),
        ops.reshape(teacher, (-1, classes)),
        labels,
        None,
        kept,
        ignore_index,
    )
    return Sequences(batch, ops.size(student, 0), ops.size(student, 1))


def contrast_sequences(
    function: str,
    ops: Backend,
    sequences: Sequences,
    groups: Groups,
    *,
    config: MCLDConfig,
    category_by_sequence: bool,
    row_contrast: Scalar | None,
    progress: Scalar,
) -> tuple[Array, dict[str, Array]]:
    """Return the loss and its terms.

    ``w_ins · mean_b InfoNCE(s̄_b; p̄) + w_sam · mean_i [ L_sam,i + γ InfoNCE(s_i; keys of the same
    sequence) ] + ramp · w_cat · mean L_cat + w_ce · mean_i L_ce,i``, means over what is kept.
    """
    gamma = row_contrast
    if gamma is None:
        gamma = 1.0 / (config.sample_temperature * config.sample_temperature)
    of_rows, of_sequences = config.weight_category, 0.0
    if category_by_sequence:
        of_rows, of_sequences = of_sequences, of_rows
    loss, terms = evaluate_batch(
        function,
        ops,
        sequences.rows,
        config=config,
        weights=Weights(
            config.weight_sample * gamma, config.weight_sample, of_rows, config.weight_ce
        ),
        progress=progress,
        return_terms=True,
        apart=Apart(_in_another, (sequences.of_row(ops),)),
    )
    terms["token"] = terms.pop("instance")
    weights = Weights(instance=config.weight_instance, category=of_sequences)
    if is_zero(weights.instance) and is_zero(weights.category):
        return loss, {**terms, "instance": 0.0 * terms["ramp"]}
    whole, whole_terms = evaluate_batch(
        function,
        ops,
        mean_rows(ops, sequences, groups.labels, config),
        config=replace(
            config,
            key_temperature=1.0,  # the keys' probabilities are means at that temperature already
            target_mask=config.target_mask and groups.labels is not None,
        ),
        weights=weights,
        progress=progress,
        return_terms=True,
        apart=groups.apart,
    )
    terms["instance"] = whole_terms["instance"]
    if category_by_sequence:
        terms["category"] = whole_terms["category"]
    return loss + whole, terms


def mean_rows(
    ops: Backend, sequences: Sequences, labels: Array | None, config: MCLDConfig
) -> Batch:
    """Return one row a sequence: mean student logits and mean key of its kept rows.

    Under ``"probability"`` the teacher's row is the logarithm of its mean probabilities, so that
    its softmax is that mean; under the other similarities the mean of its logits.
    """
    rows, kept = sequences.rows, sequences.rows.kept
    shape = (sequences.count, sequences.length)
    if kept is None:
        valid, size = None, number_like(ops, sequences.length, rows)
    else:
        size = ops.sum(ops.reshape(ops.astype(kept, rows.dtype), shape), 1)
        valid = size > 0
        size = ops.where(valid, size, 1.0)[:, None]

    def mean(x: Array) -> Array:
        x = ops.reshape(keep_rows(ops, x, kept), (*shape, x.shape[1]))
        return ops.sum(x, 1) / size

    student = mean(ops.astype(rows.student, rows.dtype))
    teacher = keep_rows(ops, ops.astype(rows.teacher, rows.dtype), kept)
    if config.similarity == "probability":
        temperature = number_like(ops, config.key_temperature, rows)
        probability = mean(key_vectors(ops, teacher, "probability", temperature))
        positive = probability > 0
        log_p = ops.log(ops.where(positive, probability, 1.0))
        teacher = ops.where(positive, log_p, MASKED)
    else:
        teacher = mean(teacher)
    if labels is None:
        labels = ops.arange(sequences.count, student)
    weight = None if valid is None else ops.astype(valid, rows.dtype)
    return Batch(student, ops.stop_gradient(teacher), rows.dtype, labels, valid, weight)


def number_like(ops: Backend, value: Scalar, rows: Batch) -> Any:
    """Return a Python number as it is, anything else in the dtype computed in."""
    if isinstance(value, (int, float)):
        return value
    return ops.astype(ops.asarray(value, rows.student), rows.dtype)


def _in_another(anchor: tuple[Array, ...], key: tuple[Array, ...]) -> Array:
    return anchor[0] != key[0]

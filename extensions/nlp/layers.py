"""Logits that are never formed as a whole: the last layers of two language models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mcld_core.arguments import (
    Batch,
    class_labels,
    fits,
    keep_rows,
    wide_dtype,
)
from mcld_core.backends import Backend
from mcld_core.extensions._sequences import SequenceArguments, Sequences, flat, following
from mcld_core.extensions._stored import TopKLogits, likeliest, stored_rows
from mcld_core.formulas.divergence import raised
from mcld_core.formulas.objective import rows_without_keys
from mcld_core.formulas.stored import StoredRows, of_parts, parts_of
from mcld_core.typing import Array, Float, Reduction


class Layer(NamedTuple):
    """The last layer of a language model: what makes logits of hidden states."""

    weight: Float[Array, "vocab width"]
    bias: Float[Array, " vocab"] | None = None

    def logits(
        self, ops: Backend, hidden: Float[Array, "rows width"], dtype: str
    ) -> Float[Array, "rows vocab"]:
        """Return logits in ``dtype``; the product is formed in the dtype of the hidden states."""
        weight = ops.astype(self.weight, ops.dtype(hidden))
        product = ops.astype(ops.matmul(hidden, ops.matrix_transpose(weight)), dtype)
        return product if self.bias is None else product + ops.astype(self.bias, dtype)[None, :]


class LayerRows(NamedTuple):
    """Tokens whose arguments are checked: hidden states instead of logits."""

    sequences: Sequences
    """The rows are hidden states: the student's, and the teacher's unless it is stored."""
    student: Layer
    teacher: Layer | None
    """None: the teacher is stored."""

    @property
    def vocabulary(self) -> int:
        """How many logits a token has."""
        return int(self.student.weight.shape[0])

    def block_rows(self, ops: Backend, block_size: Any, numbers: tuple[Any, ...] = ()) -> Any:
        """Return how many tokens have logits at a time; None, all, where a number is trained."""
        if any(ops.is_trained(number) for number in numbers):
            return None
        return rows_without_keys(self.vocabulary) if block_size == "auto" else block_size

    def teacher_block(
        self, ops: Backend, parts: tuple[Array, ...], dtype: str
    ) -> Float[Array, "block vocab"] | StoredRows:
        """Return the teacher's logits of a block of its rows, or its stored rows."""
        if self.teacher is None:
            return of_parts(self.sequences.rows.teacher, parts)
        return ops.stop_gradient(self.teacher.logits(ops, parts[0], dtype))


def arrays_of_teacher(function: str, teacher: Any) -> tuple[Any, ...]:
    """Return the arrays of a teacher; raise TypeError where it is neither stored nor a layer."""
    if isinstance(teacher, tuple) and (isinstance(teacher, TopKLogits) or len(teacher) in (2, 3)):
        return tuple(teacher)
    came = type(teacher).__name__
    if isinstance(teacher, tuple):
        came = f"a tuple of {len(teacher)}"
    raise TypeError(
        f"{function}: teacher needs TopKLogits, or the tuple (hidden, weight) or (hidden, weight, "
        f"bias) of its last layer; got {came}. A teacher of logits goes with the student's logits "
        f"into {function.removeprefix('linear_')}"
    )


def layer_rows(
    arguments: SequenceArguments,
    student: tuple[Any, Any, Any],
    teacher: TopKLogits | tuple[Any, ...],
    given: tuple[Any, Any, Any],
    shift: bool,
    ignore_index: int,
) -> LayerRows:
    """Return the tokens as rows of hidden states, checked.

    ``student`` are hidden states, weight and bias; ``given`` the labels, the attention mask, and
    the labels of the sequences.
    """
    ops, (labels, attention_mask, _) = arguments.ops, given
    hidden, layer = _layer(arguments, "", *student)
    vocabulary = layer.weight.shape[0]
    if labels is not None:
        labels = arguments.array("labels", labels, hidden)
        if not fits(labels.shape, hidden.shape[:2]) or "int" not in ops.dtype(labels):
            raise ValueError(
                f"{arguments.function}: labels need shape {tuple(hidden.shape[:2])} and an integer "
                f"dtype, one a token; got {tuple(labels.shape)}, {ops.dtype(labels)}. With soft "
                "labels, which are as large as logits, form the logits: "
                f"{arguments.function.removeprefix('linear_')}"
            )
        labels = flat(ops, labels)
    kept = arguments.flat_mask("attention_mask", attention_mask, hidden)
    if shift:
        labels, kept = following(ops, hidden, labels, kept)
    if labels is not None:
        arguments.label_values("labels", labels, kept, vocabulary, ignore_index)
        labels, counts = class_labels(ops, labels, vocabulary, ignore_index)
        kept = arguments.unless_all(kept, counts)
    dtype = wide_dtype(ops.dtype(hidden))
    weight = arguments.weight(None, kept, hidden, dtype)
    rows = keep_rows(ops, flat(ops, hidden), kept)
    theirs, theirs_layer = _teacher_rows(arguments, teacher, hidden, vocabulary, kept)
    batch = Batch(rows, theirs, dtype, labels, kept, weight)
    sequences = Sequences(batch, ops.size(hidden, 0), ops.size(hidden, 1))
    found = LayerRows(sequences, layer, theirs_layer)
    if labels is not None:
        return found
    if isinstance(theirs, StoredRows):
        labels = likeliest(ops, theirs)
    else:
        (labels,) = ops.by_block_twice(
            lambda arrays, _: (ops.argmax(found.teacher_block(ops, arrays, dtype), 1),),
            (theirs,),
            (),
            found.block_rows(ops, "auto"),
        )
    return found._replace(sequences=sequences._replace(rows=batch._replace(labels=labels)))


def of_logits(
    ops: Backend,
    given: LayerRows,
    values: Callable[[Array, Any, Array], tuple[Array, ...]],
    reduction: Reduction,
    block_rows: Any,
) -> tuple[Float[Array, " rows"], ...]:
    """Evaluate ``values(student, teacher, labels)`` on blocks of logits: one value a row.

    The first has a gradient in the hidden states and the layer, for ``reduction``. 0 in rows that
    do not count.
    """
    rows = given.sequences.rows

    def outputs(hidden: Array, layer: tuple[Array, ...]) -> Array:
        return Layer(*layer).logits(ops, hidden, rows.dtype)

    def block(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        teacher = given.teacher_block(ops, arrays[1:-1], rows.dtype)
        return values(raised(ops, arrays[0]), teacher, arrays[-1])

    arrays = (rows.student, *parts_of(rows.teacher), rows.labels)
    layer = tuple(x for x in given.student if x is not None)
    weights = None
    if reduction != "none":
        weights = rows.weight
        if weights is None:
            every = ops.arange(ops.size(rows.student, 0), rows.student) >= 0
            weights = ops.astype(every, rows.dtype)
    found = ops.layer_by_block(outputs, block, arrays, layer, weights, block_rows)
    return found if rows.kept is None else tuple(ops.where(rows.kept, x, 0.0) for x in found)


def _layer(
    arguments: SequenceArguments, of: str, hidden: Any, weight: Any, bias: Any = None
) -> tuple[Float[Array, "batch tokens width"], Layer]:
    """Return hidden states and their layer; raise unless shapes, dtypes and devices fit."""
    function, ops = arguments.function, arguments.ops
    names = [f"{of}{name}" for name in ("hidden", "weight", "bias")]
    hidden = arguments.array(names[0], hidden, arguments.like)
    weight = arguments.array(names[1], weight, hidden)
    ours, theirs = tuple(hidden.shape), tuple(weight.shape)
    if len(ours) != 3 or len(theirs) != 2 or theirs[0] is None or not fits(ours[2:], theirs[1:]):
        raise ValueError(
            f"{function}: {names[0]} and {names[1]} need shapes (batch, tokens, width) and (vocab, "
            f"width), as a linear layer of torch has them; got {ours} and {theirs}"
        )
    if bias is not None:
        bias = arguments.array(names[2], bias, hidden)
        if not fits(bias.shape, theirs[:1]):
            raise ValueError(
                f"{function}: {names[2]} needs shape {theirs[:1]}, one entry a row of {names[1]}; "
                f"got {tuple(bias.shape)}"
            )
    for name, x in zip(names, (hidden, weight, bias), strict=True):
        if x is None:
            continue
        if "float" not in ops.dtype(x):
            raise TypeError(f"{function}: {name} needs a float dtype; got {ops.dtype(x)}")
        arguments.device(name, x, hidden, names[0])
    return hidden, Layer(weight, bias)


def _teacher_rows(
    arguments: SequenceArguments,
    teacher: TopKLogits | tuple[Any, ...],
    hidden: Float[Array, "batch tokens width"],
    vocabulary: int,
    kept: Array | None,
) -> tuple[Float[Array, "rows width"] | StoredRows, Layer | None]:
    """Return the teacher's rows, hidden or stored, and its layer, without gradient."""
    ops, layer = arguments.ops, None
    if isinstance(teacher, TopKLogits):
        values = arguments.array("teacher.values", teacher.values, hidden)
    else:
        values, layer = _layer(arguments, "the teacher's ", *teacher)
        theirs = layer.weight.shape[0]
        if theirs != vocabulary:
            raise ValueError(
                f"{arguments.function}: both weights need the same vocabulary; got {vocabulary} "
                f"and {theirs}. Take the rows of the teacher's that the student's tokens have: "
                "mcld_core.extensions.nlp.align_vocabulary"
            )
        layer = Layer(*(None if x is None else ops.stop_gradient(x) for x in layer))
    if not fits(values.shape[:2], hidden.shape[:2]):
        raise ValueError(
            f"{arguments.function}: the teacher needs the tokens of hidden, "
            f"{tuple(hidden.shape[:2])}; got {tuple(values.shape)}"
        )
    arguments.device("the teacher", values, hidden, "hidden")
    if isinstance(teacher, TopKLogits):
        return stored_rows(arguments, teacher, values, vocabulary, kept), None
    return keep_rows(ops, ops.stop_gradient(flat(ops, values)), kept), layer

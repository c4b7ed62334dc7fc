"""Teachers that are stored as the largest entries of each row of logits: `TopKLogits`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mcld_core.arguments import Checks, both_kept, fits, keep_rows, wide_dtype
from mcld_core.backends import Backend
from mcld_core.cache import to_numpy
from mcld_core.config import MCLDConfig
from mcld_core.extensions._sequences import SequenceArguments, Sequences, flat, following
from mcld_core.formulas.divergence import MASKED
from mcld_core.formulas.stored import StoredRows
from mcld_core.typing import Array, Bool, Float, Int

LEAST = -9999.0
"""Stands for the logarithm of 0 in what is stored, as in what servers return."""


class TopKLogits(NamedTuple):
    """A teacher's logits stored by their largest entries: k of a vocabulary, and the rest's mass.

    The mass of the rest is spread evenly over the other ``vocabulary - k`` tokens; without it the
    top k are renormalised and every other token has probability 0.

    Args:
        values: (batch, tokens, k) logits (or log-probabilities) of the top tokens.
        indices: (batch, tokens, k) int, their ids, each at most once a row. Padded tokens may
            hold anything.
        tail: (batch, tokens) probability of all other tokens together; None: 0.

    Example:
        >>> import numpy as np
        >>> stored = TopKLogits.from_logits(np.log([[[0.5, 0.2, 0.2, 0.1]]]), k=1)
        >>> [round(float(p), 3) for p in np.exp(stored.dense(4)[0, 0]) / 1.0]
        [0.5, 0.167, 0.167, 0.167]
    """

    values: Float[Array, "batch tokens k"]
    indices: Int[Array, "batch tokens k"]
    tail: Float[Array, "batch tokens"] | None = None

    @classmethod
    def from_logits(cls, logits: Float[Array, "batch tokens vocab"], k: int) -> TopKLogits:
        """Keep the k largest logits of each token, and the mass of the rest: NumPy, for storage.

        Tensors of PyTorch are selected from on their device.

        Args:
            logits: (batch, tokens, vocab), any float dtype.
            k: how many, 1 … vocab.

        Raises:
            ValueError, TypeError: k is not an int in 1 … vocabulary.
        """
        Checks("TopKLogits.from_logits").integer("k", k, minimum=1, maximum=logits.shape[-1])
        if hasattr(logits, "topk"):  # PyTorch selects on the tensor's device: only k entries leave
            wide = logits.detach() if _is_double(logits) else logits.detach().float()
            values, indices = wide.topk(k, -1)
            outside = wide.scatter(-1, indices, float("-inf"))
            rest = (outside.logsumexp(-1) - wide.logsumexp(-1)).exp()
            return cls(to_numpy(values), to_numpy(indices).astype("int32"), to_numpy(rest))
        x = np.asarray(logits, "float64" if _is_double(logits) else "float32")
        indices = np.sort(np.argpartition(-x, k - 1, axis=-1)[..., :k], -1).astype("int32")
        values = np.take_along_axis(x, indices, -1)
        order = np.argsort(-values, axis=-1, kind="stable")
        values, indices = (np.take_along_axis(part, order, -1) for part in (values, indices))
        shifted = np.exp(x - x.max(-1, keepdims=True))
        rest = shifted.copy()
        np.put_along_axis(rest, indices, 0.0, -1)
        return cls(values, indices, rest.sum(-1) / shifted.sum(-1))

    def dense(
        self,
        vocabulary: int,
        where: Bool[Array, "batch tokens"] | None = None,
    ) -> Float[Array, "batch tokens vocab"]:
        """Return logits over the vocabulary, -inf where a token has probability 0.

        Args:
            vocabulary: how many.
            where: (batch, tokens), True or 1 = keep: what is padded may hold anything, and is
                anything in the result.

        Raises:
            ValueError, TypeError: shapes that differ; ids that are not ints, lie outside the
                vocabulary or stand twice in a row; a tail outside 0 … 1.
        """
        arguments = SequenceArguments("TopKLogits.dense", *self, where)
        arguments.integer("vocabulary", vocabulary, minimum=1)
        values, _ = arguments.tensors(self.values, self.indices)
        kept = None if where is None else arguments.flat_mask("where", where, values)
        ops = arguments.ops
        top, indices, rest = stored_rows(arguments, self, values, vocabulary, kept)
        rest = 0.0 * top[:, :1] + MASKED if rest is None else rest
        columns = 0.0 * ops.astype(ops.arange(vocabulary, values), ops.dtype(top))[None, :]
        dense = ops.put_along_axis(rest + columns, indices, top)
        dense = ops.where(dense > MASKED / 2, dense, float("-inf"))
        return ops.reshape(dense, (ops.size(values, 0), ops.size(values, 1), vocabulary))


def normalised(
    function: str,
    stored: TopKLogits,
    where: np.ndarray[Any, Any],
    vocabulary: int,
) -> tuple[np.ndarray[Any, Any], ...]:
    """Return the kept log-probabilities, ids and tail, in NumPy; raise for no distribution."""
    values, indices = (to_numpy(x)[where] for x in stored[:2])
    values = values.astype("float64")
    tail = np.zeros(len(values)) if stored.tail is None else to_numpy(stored.tail)[where]
    tail = tail.astype("float64")
    peak = values.max(-1, keepdims=True, initial=-np.inf)
    if not (np.isfinite(peak).all() and (tail >= 0.0).all() and (tail <= 1.0 + 1e-3).all()):
        raise ValueError(
            f"{function}: TopKLogits need numbers, and tails in 0 … 1; got rows whose largest "
            f"entries are {peak.min(initial=0.0)} … {peak.max(initial=0.0)} and tails "
            f"{tail.min(initial=0.0)} … {tail.max(initial=0.0)}"
        )
    _check_ids(f"{function}: TopKLogits", indices, vocabulary)
    total = np.log(np.exp(values - peak).sum(-1, keepdims=True)) + peak
    with np.errstate(divide="ignore"):
        share = np.log1p(-np.minimum(tail, 1.0))[:, None]
    return values - total + share, indices, tail


def check_stored(function: str, config: MCLDConfig) -> None:
    """Raise ValueError for settings whose formulas need all of a teacher's logits."""
    for name, needed in (("similarity", "probability"), ("category_contrast", "labels")):
        if getattr(config, name) != needed:
            raise ValueError(
                f"{function}: {name}={getattr(config, name)!r} needs all logits of the teacher, "
                f"TopKLogits are for {needed!r}. Pass teacher_logits.dense(vocabulary)"
            )


def stored_rows(
    arguments: SequenceArguments,
    stored: TopKLogits,
    values: Array,
    vocabulary: int,
    kept: Bool[Array, " rows"] | None,
) -> StoredRows:
    """Return the rows one after the other, checked, with zeros in those that are not kept.

    ``values`` are the stored ones, converted.
    """
    ops = arguments.ops
    indices = ops.asarray(stored.indices, values)
    if len(values.shape) != 3 or not fits(values.shape, indices.shape) or not values.shape[2]:
        raise ValueError(
            "TopKLogits: values and indices need one shape (batch, tokens, k), with k ≥ 1 known "
            f"when traced; got {tuple(values.shape)} and {tuple(indices.shape)}"
        )
    if not ops.dtype(indices).startswith(("int", "uint")):
        raise TypeError(f"TopKLogits: indices need an integer dtype; got {ops.dtype(indices)}")
    indices = flat(ops, indices)
    ids, mask = arguments.readable(indices, kept)
    if ids is not None:
        _check_ids("TopKLogits: indices", ids[mask], vocabulary)
    indices = ops.astype(indices, "int32")
    if kept is not None:
        indices = ops.where(kept[:, None], indices, 0)
    dtype = wide_dtype(ops.dtype(values))
    top = keep_rows(ops, ops.stop_gradient(ops.astype(flat(ops, values), dtype)), kept)
    if stored.tail is None:
        return StoredRows(top, indices)
    tail = ops.stop_gradient(ops.astype(ops.asarray(stored.tail, values), dtype))
    if not fits(tail.shape, values.shape[:2]):
        raise ValueError(
            f"TopKLogits: tail needs shape {tuple(values.shape[:2])}, one mass a token; got "
            f"{tuple(tail.shape)}"
        )
    tail = flat(ops, tail)
    masses, mask = arguments.readable(tail, kept)
    if masses is not None:  # half precision rounds
        bad = mask & ~((masses >= 0.0) & (masses <= 1.0 + 1e-3))
        if bad.any():
            raise ValueError(
                "TopKLogits: tail needs masses in 0 … 1, the probability of all other tokens; got "
                f"{masses[bad][0]}"
            )
    k = top.shape[1]
    if k == vocabulary:
        return StoredRows(top, indices)
    tail = keep_rows(ops, tail[:, None], kept)
    positive = tail > 0
    odds = ops.where(positive, tail, 0.5) / ops.maximum(1.0 - tail, 1e-30)
    level = ops.logsumexp(top, 1, keepdims=True) + ops.log(odds / float(vocabulary - k))
    return StoredRows(top, indices, ops.where(positive, level, MASKED))


def _check_ids(name: str, ids: np.ndarray[Any, Any], vocabulary: int) -> None:
    ordered = np.sort(ids, -1)
    twice = (ordered[..., 1:] == ordered[..., :-1]).any()
    if twice or ids.min(initial=0) < 0 or ids.max(initial=0) >= vocabulary:
        raise ValueError(
            f"{name} need ids in 0 … {vocabulary - 1}, each once a token; got "
            f"{'one twice' if twice else f'{ids.min()} … {ids.max()}'}. Align the vocabularies "
            "before storing, or densify over the teacher's: TopKLogits.dense, then align_vocabulary"
        )


def _is_double(logits: Any) -> bool:
    return "float64" in str(getattr(logits, "dtype", "float64"))


def arrays_of(teacher_logits: Any) -> tuple[Any, ...]:
    """Return the arrays that a teacher's logits consist of."""
    return teacher_logits if isinstance(teacher_logits, TopKLogits) else (teacher_logits,)


def logit_rows(
    arguments: SequenceArguments,
    logits: tuple[Float[Array, "batch time classes"], Array],
    teacher: Any,
    beside: tuple[Any, Bool[Array, " rows"] | None],
    ignore_index: int,
) -> Sequences:
    """Return the student's and the teacher's logits row by row, checked; none is made dense.

    ``teacher`` is what came, ``logits`` both converted (of a stored teacher its values), and
    ``beside`` are the rows' labels and mask.
    """
    ops, (student, theirs), (labels, kept) = arguments.ops, logits, beside
    rows = flat(ops, student)
    if isinstance(teacher, TopKLogits):
        has_int_labels = labels is not None and len(labels.shape) == 1
        counts = both_kept(kept, labels != ignore_index) if has_int_labels else kept
        stored = stored_rows(arguments, teacher, theirs, student.shape[2], counts)
        labels = likeliest(ops, stored) if labels is None else labels
        batch = arguments.batch((rows, rows, labels, None, kept), ignore_index)
        batch = batch._replace(teacher=stored)
    else:
        batch = arguments.batch((rows, flat(ops, theirs), labels, None, kept), ignore_index)
    return Sequences(batch, ops.size(student, 0), ops.size(student, 1))


def likeliest(ops: Backend, stored: StoredRows) -> Int[Array, " rows"]:
    """Return the arg max of each stored row."""
    best = ops.argmax(stored.values, 1)[:, None]
    return ops.take_along_axis(stored.indices, best, 1)[:, 0]


def token_rows(
    arguments: SequenceArguments,
    given: tuple[Any, Any, Any, Any, Any],
    shift: bool,
    ignore_index: int,
) -> Sequences:
    """Return the tokens as rows, checked.

    ``given`` are the student's logits, the teacher's, the labels, the attention mask, and the
    labels of the sequences.
    """
    from mcld_core.extensions.nlp.losses import check_tokens

    student, teacher, labels, attention_mask, _ = given
    student, theirs = arguments.tensors(student, arrays_of(teacher)[0])
    shape = tuple(theirs.shape)
    if isinstance(teacher, TopKLogits):
        shape = (*shape[:2], student.shape[-1])
    check_tokens(arguments.function, tuple(student.shape), shape)
    if labels is not None:
        labels = arguments.flat_labels("labels", labels, student)
    beside = labels, arguments.flat_mask("attention_mask", attention_mask, student)
    if shift:
        beside = following(arguments.ops, student, *beside)
    return logit_rows(arguments, (student, theirs), teacher, beside, ignore_index)

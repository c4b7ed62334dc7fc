"""Teachers of which each token keeps the largest probabilities, or a few draws: `TopKLogits`."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from mcld_core.arguments import Arguments, Checks, fits, is_number, to_numpy
from mcld_core.extensions._sequences import flat
from mcld_core.extensions.nlp.tokens import Tokens
from mcld_core.formulas.divergence import MASKED
from mcld_core.formulas.vocabulary import TopRows
from mcld_core.typing import Array, Float, Int

_ENTRIES = 2**20
"""Logits that are looked at in one piece."""

_has_warned = False


class TopKLogits(NamedTuple):
    """A teacher stored by k log-probabilities a token, and that of all other tokens together.

    All others are **one class more**: student and teacher are compared on k + 1 classes, and
    nothing is said of how the teacher spreads the rest.

    Args:
        values: (batch, tokens, k) log-probabilities. A token may have fewer: -inf in the places
            that are left over.
        indices: (batch, tokens, k) int, the ids, each at most once a token; any id where the value
            is -inf. Padded tokens may hold anything.
        tail: (batch, tokens) log-probability of all others together, better not in half precision;
            -inf where nothing is left. None: both sides are renormalised over the k, and values may
            be logits. The number -inf: the values are frequencies of draws, by `from_samples`.

    Example:
        >>> import numpy as np
        >>> stored = TopKLogits.from_logits(np.log([[[0.5, 0.2, 0.2, 0.1]]]), k=1)
        >>> [round(float(np.exp(x).squeeze()), 3) for x in (stored.values, stored.tail)]
        [0.5, 0.5]
    """

    values: Float[Array, "batch tokens k"]
    indices: Int[Array, "batch tokens k"]
    tail: Float[Array, "batch tokens"] | float | None = None

    @classmethod
    def from_logits(cls, logits: Float[Array, "batch tokens vocab"], k: int) -> TopKLogits:
        """Keep the k largest log-probabilities of each token, and that of the rest: NumPy.

        Tensors of PyTorch are selected from on their device. It is done by pieces of 4 MB: the
        memory is what is kept.

        Args:
            logits: (batch, tokens, vocab), any float dtype.
            k: how many, 1 … vocab.

        Raises:
            ValueError, TypeError: k is not an int in 1 … vocabulary.
        """
        checks = _checked_logits("TopKLogits.from_logits", logits)
        checks.integer("k", k, minimum=1, maximum=logits.shape[-1])
        parts = zip(*(_top(block, k) for block in _blocks(logits)), strict=True)
        values, indices, tail = (np.concatenate(part) for part in parts)
        shape = tuple(logits.shape[:-1])
        return cls(values.reshape(*shape, k), indices.reshape(*shape, k), tail.reshape(shape))

    @classmethod
    def from_samples(
        cls,
        ids: Int[Array, "batch tokens draws"],
        count: Int[Array, "batch tokens draws"] | None = None,
    ) -> TopKLogits:
        """Return a teacher that is known by tokens drawn from it (random sampling KD): NumPy.

        The draws' frequencies take the place of its probabilities. The gradient of the forward
        divergence is then unbiased, for ``divergence="forward"`` and temperature 1 alone; its value
        is not: report the cross-entropy.

        Args:
            ids: (batch, tokens, draws) int; repeated ids are summed.
            count: how often each was drawn, of the same shape; 0: not at all. None: once each.

        Raises:
            ValueError, TypeError: shapes that differ; ids or counts that are not ints ≥ 0.

        Example:
            >>> import numpy as np
            >>> stored = TopKLogits.from_samples(np.array([[[7, 2, 7, 7]]]))
            >>> stored.indices[0, 0].tolist(), np.exp(stored.values[0, 0]).round(2).tolist()
            ([2, 7], [0.25, 0.75])

        References:
            A. Anshumann et al., "Sparse Logit Sampling: Accelerating Knowledge Distillation in
            LLMs", ACL 2025, arXiv:2503.16870.
        """
        function = "TopKLogits.from_samples"
        arguments = Arguments(function, ids, count)
        ids = to_numpy(arguments.array("ids", ids))
        count = np.ones_like(ids) if count is None else to_numpy(arguments.array("count", count))
        for name, x in (("ids", ids), ("count", count)):
            if x.ndim != 3 or x.shape != ids.shape or x.dtype.kind not in "iu" or (x < 0).any():
                needs = f"{name} needs ints ≥ 0 of one shape (batch, tokens, draws)"
                came = f"{x.shape}, {x.dtype}, {x.min(initial=0)} … {x.max(initial=0)}"
                raise arguments.wrong(needs, came)
        ids, count = _summed(ids, count)
        total = np.maximum(count.sum(-1, keepdims=True), 1)
        with np.errstate(divide="ignore"):
            return cls(np.log(count / total).astype("float32"), ids, -math.inf)


def sample_teacher(
    logits: Float[Array, "batch tokens vocab"], draws: int, generator: Any
) -> tuple[Int[Array, "batch tokens draws"], Int[Array, "batch tokens draws"]]:
    """Draw tokens from a teacher's softmax: ids and counts for `TopKLogits.from_samples`.

    Args:
        logits: (batch, tokens, vocab), any float dtype.
        draws: how many a token; 8 to 12 do.
        generator: a ``torch.Generator`` on the logits' device for tensors of PyTorch, else a
            ``numpy.random.Generator``.

    Returns:
        The distinct ids of each token, ascending, and how often each was drawn; count 0 in the
        places that are left over. NumPy, int32.

    Example:
        >>> import numpy as np
        >>> ids, count = sample_teacher(np.zeros((1, 1, 3)), 4, np.random.default_rng(0))
        >>> int(count.sum())
        4
    """
    _checked_logits("sample_teacher", logits).integer("draws", draws, minimum=1)
    if not hasattr(generator, "initial_seed" if hasattr(logits, "topk") else "random"):
        raise TypeError(
            "sample_teacher: generator needs a torch.Generator for tensors of PyTorch, else a "
            f"numpy.random.Generator; got {type(generator).__name__}"
        )
    ids = np.concatenate([_draw(block, draws, generator) for block in _blocks(logits)])
    ids = ids.reshape(*logits.shape[:-1], draws).astype("int32")
    ids, count = _summed(ids, np.ones_like(ids))
    padding = [(0, 0), (0, 0), (0, draws - ids.shape[-1])]
    return np.pad(ids, padding), np.pad(count, padding)


def top_rows(
    arguments: Arguments,
    stored: TopKLogits,
    like: Float[Array, "batch tokens _"],
    vocabulary: int,
    tokens: Tokens,
    divergence: str,
) -> TopRows:
    """Return the rows one after the other, checked; no NaN and no -inf stays in them."""
    ops = arguments.ops
    values = arguments.array("teacher.values", stored.values, like)
    indices = arguments.array("teacher.indices", stored.indices, values)
    ours, shape = tuple(like.shape[:2]), tuple(values.shape)
    if len(shape) != 3 or not fits(shape, indices.shape) or not fits(ours, shape[:2]):
        needs = f"TopKLogits: values and indices need shape (*{ours}, k)"
        raise arguments.wrong(needs, f"{shape} and {tuple(indices.shape)}")
    if not ops.dtype(indices).startswith(("int", "uint")) or not shape[2]:
        needs = "TopKLogits: indices need an integer dtype, and k ≥ 1 that is known when traced"
        raise arguments.wrong_type(needs, f"{ops.dtype(indices)}, {shape}")
    values = ops.astype(flat(ops, ops.stop_gradient(values)), tokens.dtype)
    indices = flat(ops, indices)
    tail = None
    if is_drawn(stored):
        tail = 0.0 * ops.astype(indices[:, :1], tokens.dtype) + MASKED
    elif stored.tail is not None:
        tail = arguments.shaped("TopKLogits: tail", stored.tail, values, ours, "one a token")
        tail = ops.astype(flat(ops, ops.stop_gradient(tail)), tokens.dtype)[:, None]
    _check(arguments, TopRows(values, indices, tail), tokens.kept, vocabulary, divergence)
    is_class = values > MASKED / 2
    values = ops.where(is_class, values, MASKED)
    indices = ops.astype(ops.where(is_class, indices, -1), "int32")
    largest = ops.take_along_axis(indices, ops.argmax(values, 1)[:, None], 1)
    indices = ops.maximum(ops.where(is_class, indices, largest), 0)
    indices = ops.minimum(indices, vocabulary - 1)
    if tail is not None:
        tail = ops.where(tail > MASKED / 2, tail, MASKED)
    return TopRows(values, indices, tail)


def with_rest(values: np.ndarray[Any, Any], indices: np.ndarray[Any, Any]) -> TopKLogits:
    """Return log-probabilities with that of all others, which float32 tells from 2⁻²⁴ on only."""
    left = 1.0 - np.exp(values.astype("float64")).sum(-1)
    return TopKLogits(values, indices, np.log(np.maximum(left, 2.0**-24)).astype("float32"))


def is_drawn(teacher: Any) -> bool:
    """Whether a teacher is one of draws: `TopKLogits.from_samples`."""
    tail = teacher.tail if isinstance(teacher, TopKLogits) else None
    return tail == -math.inf if is_number(tail) else getattr(tail, "shape", None) == ()


def _check(
    arguments: Arguments, top: TopRows, kept: Array | None, vocabulary: int, divergence: str
) -> None:
    """Raise for ids and masses that are none, where they can be read; warn where little is kept.

    Raise, too, where the teacher is 0 beyond its k and the divergence does not allow it.
    """
    ids, mask = arguments.readable(top.indices, kept)
    log_p = arguments.ops.host_values(top.values)
    if ids is None or log_p is None:
        return
    ids, log_p = ids[mask], log_p[mask]
    is_class = log_p > MASKED / 2
    ids = np.where(is_class, ids, -1 - np.arange(ids.shape[1]))
    ordered = np.sort(ids, 1)
    twice = (ordered[:, 1:] == ordered[:, :-1]).any()
    if twice or (is_class & (ids < 0)).any() or ids.max(initial=0) >= vocabulary:
        came = "one twice" if twice else f"{ids[is_class].min()} … {ids.max()}"
        needs = f"TopKLogits: indices need ids in 0 … {vocabulary - 1}, each at most once a token"
        raise arguments.wrong(needs, came, "Align vocabularies that differ: align_vocabulary")
    if top.tail is None or not len(ids):
        return
    mass = np.exp(np.minimum(log_p, 1e2).astype("float64")).sum(1)
    rest: Any = arguments.ops.host_values(top.tail)
    rest = np.exp(rest[mask, 0].astype("float64"))
    if divergence in ("reverse", "jsd") and ids.shape[1] < vocabulary and not rest.any():
        needs = f"divergence={divergence!r} needs a teacher of all classes, or one with a tail"
        came = f"tails of -inf beside {ids.shape[1]} of {vocabulary} classes"
        cure = "Take 'forward', or tail=None, which renormalises both sides over the k"
        raise arguments.wrong(needs, came, cure)
    bad = ~(np.abs(mass + rest - 1.0) <= 0.1)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{arguments.function}: TopKLogits: values and tail need log-probabilities, whose "
            f"probabilities sum to 1 in each token; got {mass[row]:.4g} and {rest[row]:.4g} in row "
            f"{row} of those that count. TopKLogits.from_logits makes them of logits"
        )
    global _has_warned
    if mass.mean() < 0.5 and not _has_warned:
        _has_warned = True
        warnings.warn(
            f"TopKLogits: {ids.shape[1]} classes hold {mass.mean():.2f} of the teacher's mass on "
            "average. Below a half, training by them alone was worse than by the labels; with "
            "ce_weight > 0 it was not, and a few draws (TopKLogits.from_samples) were better",
            stacklevel=4,
        )


def _checked_logits(function: str, logits: Any) -> Checks:
    """Raise TypeError unless the logits are an array of floats with three axes."""
    if "float" not in str(getattr(logits, "dtype", "")) or len(logits.shape) != 3:
        came = getattr(logits, "dtype", type(logits).__name__), getattr(logits, "shape", "no shape")
        needs = "logits needs floats of shape (batch, tokens, vocab)"
        raise Checks(function).wrong_type(needs, f"{came[0]}, {came[1]}")
    return Checks(function)


def _blocks(logits: Any) -> Any:
    """Yield rows of logits in pieces, in float64 where they are and else in float32."""
    of_torch, is_double = hasattr(logits, "topk"), "float64" in str(logits.dtype)
    logits = logits.detach() if of_torch else np.asarray(logits)
    rows = logits.reshape(-1, logits.shape[-1])
    size = max(_ENTRIES // rows.shape[1], 1)
    for start in range(0, max(len(rows), 1), size):
        block = rows[start : start + size]
        if of_torch:
            yield block if is_double else block.float()
        else:
            yield block.astype("float64" if is_double else "float32")


def _top(rows: Any, k: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Return log-probabilities of the k largest, their ids, and the log-probability of the rest."""
    if hasattr(rows, "topk"):
        values, indices = rows.topk(k, -1)
        rest = rows.scatter(-1, indices, -math.inf).logsumexp(-1)
        total = values.logsumexp(-1).logaddexp(rest)
        values, rest = (to_numpy(x) for x in (values - total[:, None], rest - total))
        return values, to_numpy(indices).astype("int32"), rest
    indices = np.argpartition(-rows, k - 1, axis=-1)[:, :k]
    values = np.take_along_axis(rows, indices, -1)
    order = np.argsort(-values, axis=-1, kind="stable")
    values, indices = (np.take_along_axis(x, order, -1) for x in (values, indices))
    np.put_along_axis(rows, indices, -np.inf, -1)
    peak = values.max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        rest = np.log(np.exp(rows - peak).sum(-1))
    total = np.logaddexp(np.log(np.exp(values - peak).sum(-1)), rest)
    return values - peak - total[:, None], indices.astype("int32"), rest - total


def _draw(rows: Any, draws: int, generator: Any) -> np.ndarray[Any, Any]:
    """Return ids that are drawn from the softmax of each row."""
    if hasattr(rows, "topk"):
        return to_numpy(rows.softmax(-1).multinomial(draws, replacement=True, generator=generator))
    below = np.cumsum(np.exp(rows.astype("float64") - rows.max(-1, keepdims=True)), -1)
    places = generator.random((len(rows), draws)) * below[:, -1:]
    pairs = zip(below, places, strict=True)
    found = [np.searchsorted(row, place, side="right") for row, place in pairs]
    return np.reshape(np.array(found, "int64"), (len(rows), draws))


def _summed(
    ids: np.ndarray[Any, Any], count: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the distinct ids of each token, ascending, and the sums of their counts."""
    lead, base = ids.shape[:-1], int(ids.max(initial=0)) + 1
    ids, count = (x.reshape(-1, x.shape[-1]) for x in (ids, count))
    row, place = np.nonzero(count)
    found, draw = np.unique(row * base + ids[row, place].astype("int64"), return_inverse=True)
    total = np.bincount(draw, count[row, place], len(found))
    row, distinct = np.divmod(found, base)
    column = np.arange(len(row)) - np.searchsorted(row, row)
    summed = np.zeros((2, len(ids), int(column.max(initial=0)) + 1), "int32")
    summed[:, row, column] = distinct, total
    ids, count = summed.reshape(2, *lead, summed.shape[-1])
    return ids, count

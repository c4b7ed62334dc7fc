"""What the losses over a vocabulary share: tokens as rows, and one loss that knows its slope.

A token's logits are looked at a few rows at a time, and the tokens that do not count never
(`mcld_core.backends`' `by_kept_block`). Such a block is small enough for a core's cache, so what
costs is one pass of exp over the student's logits and one over the teacher's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mcld_core.arguments import class_labels, is_plain, keep_rows, ratio, whole_weight, wide_dtype
from mcld_core.backends import Backend
from mcld_core.backends.protocol import KeptRows
from mcld_core.extensions._sequences import SequenceArguments, flat, following
from mcld_core.formulas.divergence import MASKED, raised, times, whole_divergence
from mcld_core.formulas.vocabulary import (
    TopRows,
    at_label,
    divisor,
    log_add,
    parted,
    sampled_divergence,
    top_divergence,
)
from mcld_core.typing import Array, Bool, Float, Int, Logits, Reduction, Scalar, Values

_ENTRIES = 2**20
"""Logits of a block: 4 MB, so that a cache holds it; of fewer the small operations cost more."""
_LAYER_ENTRIES, _LAYER_ROWS = 2**23, 64
"""Logits that a layer forms at once: 32 MB, but a product of fewer rows is slow."""


class Tokens(NamedTuple):
    """The tokens of a call, one after the other."""

    labels: Int[Array, " rows"] | None
    """-1 where a label is not a class."""
    kept: Bool[Array, " rows"] | None
    """Which count; None: all."""
    weight: Float[Array, " rows"] | None
    """None: 1 each; 0 where a token does not count."""
    dtype: str
    shape: tuple[Any, Any]
    """Sequences and their length."""


class Head(NamedTuple):
    """What a language model does to the product of its last layer."""

    scale: Scalar = 1.0
    softcap: Scalar | None = None

    def logits(self, ops: Backend, product: Logits) -> Logits:
        """Return ``c tanh(scale · product / c)``, or ``scale · product`` without a softcap c."""
        z = product if is_plain(self.scale, 1) else self.scale * product
        return z if self.softcap is None else self.softcap * ops.tanh(z / self.softcap)

    def slope(self, logits: Logits, slope: Logits) -> Logits:
        """Return the slope by the product of a slope by the logits."""
        if self.softcap is not None:
            part = logits / self.softcap
            slope = slope * (1.0 - part * part)
        return slope if is_plain(self.scale, 1) else self.scale * slope


class TokenLoss(NamedTuple):
    """T² times a divergence plus weighted cross-entropy, a value a row, on blocks of rows.

    ``beside`` are a block's teacher rows (logits, or the parts of `TopRows`) and, with
    cross-entropy, its labels; of ``"sampled"`` scores and the tokens that were drawn.
    """

    ops: Backend
    dtype: str
    divergence: str = "forward"
    temperature: Scalar = 1.0
    mix: Scalar = 0.5
    ce_weight: Scalar = 0.0
    is_top: bool = False
    has_labels: bool = False
    head: Head = Head()
    teacher_head: Head = Head()

    def prepare(self, beside: tuple[Array, ...], shared: tuple[Array, ...]) -> tuple[Array, ...]:
        """Return the block's teacher logits where it came as hidden states and a layer."""
        if not shared:
            return beside
        logits = self.ops.astype(product(self.ops, beside[0], *shared), self.dtype)
        return (self.teacher_head.logits(self.ops, logits), *beside[1:])

    def values(self, z: Logits, beside: tuple[Array, ...]) -> Values:
        """Return a value a row, which the framework can differentiate."""
        return self._values(*self._opened(z, beside))

    def with_slope(
        self, z: Logits, beside: tuple[Array, ...], factor: Any = 1.0, out: Array | None = None
    ) -> tuple[Values, Logits]:
        """Return a value a row and ``factor`` (a number or a column) times its slope.

        Of the forward divergence, of a stored teacher and of the cross-entropy the slope is made of
        softmax rows, in ``out`` where the framework writes in place. All else the framework
        differentiates.
        """
        ops = self.ops
        z, teacher, labels = self._opened(z, beside)
        if not self.is_top and self.divergence != "forward":
            value, (slope,) = ops.value_and_slopes(lambda z: self._values(z, teacher, labels), (z,))
            return value, self.head.slope(z, times(factor, slope))
        weights: Any = None
        if labels is not None:
            own, index, is_class = at_label(ops, z, labels)
            weights = self.ce_weight * ops.astype(is_class, self.dtype)
        # of z itself, which is at temperature 1
        has_sum = is_plain(self.temperature, 1) or (self.is_top and teacher.tail is None)
        part = self._of_top if self.is_top else self._forward
        value, slope = part(z, teacher, weights if has_sum else None, factor, out)
        if labels is not None:
            if not has_sum:
                soft, log_sum = softmax_and_sum(ops, z)
                soft *= weights * factor
                slope += soft
                value = value + weights[:, 0] * log_sum
            value = value - (weights * own)[:, 0]
            slope = ops.add_along_axis(slope, index, -weights * factor)
        return value, self.head.slope(z, slope)

    def whole(self, rows: KeptRows) -> Any:
        """Return the loss of all rows at once, as the framework differentiates it."""
        ops = self.ops
        beside = tuple(
            keep_rows(ops, y, rows.kept) if len(y.shape) == 2 and "float" in ops.dtype(y) else y
            for y in rows.beside
        )
        x = keep_rows(ops, rows.x, rows.kept)
        z = product(ops, x, *rows.layer) if rows.layer else x
        found = self.values(ops.astype(z, self.dtype), self.prepare(beside, rows.shared))
        found = keep_rows(ops, found, rows.kept)
        found = found if rows.weight is None else found * rows.weight
        return found if rows.scale is None else rows.scale * ops.sum(found, None)

    def _opened(self, z: Logits, beside: tuple[Array, ...]) -> tuple[Logits, Any, Array | None]:
        ops, parts = self.ops, beside[: len(beside) - self.has_labels]
        labels = beside[-1] if self.has_labels else None
        z = self.head.logits(ops, ops.astype(z, self.dtype))
        if self.is_top:
            return z, TopRows(*parts), labels
        return z, ops.astype(parts[0], self.dtype), labels

    def _values(self, z: Logits, teacher: Any, labels: Array | None) -> Values:
        ops, name, settings = self.ops, self.divergence, (self.temperature, self.divergence)
        if isinstance(teacher, TopRows):
            entries, others = parted(ops, z, teacher, self.temperature)
            rest = None if teacher.tail is None else ops.logsumexp(others, 1, keepdims=True)
            value = top_divergence(ops, entries, rest, teacher, *settings, self.mix)
        elif name == "sampled":
            return sampled_divergence(ops, z, teacher, labels)
        else:
            z = raised(ops, z)
            value = whole_divergence(ops, z, teacher, self.temperature, name, self.mix)
        if labels is None:
            return value
        own, _, is_class = at_label(ops, z, labels)
        ce = ops.where(is_class, ops.logsumexp(z, 1, keepdims=True) - own, 0.0)
        return value + self.ce_weight * ce[:, 0]

    def _forward(
        self, z: Logits, teacher: Logits, weights: Array | None, factor: Any, out: Array | None
    ) -> tuple[Values, Logits]:
        """Return the forward divergence, and ``weights`` times the logsumexp of z, at T = 1."""
        ops, t = self.ops, self.temperature
        x, y = (z, teacher) if is_plain(t, 1) else (z / t, teacher / t)
        (slope, log_q), (p, log_p) = softmax_and_sum(ops, x, out), softmax_and_sum(ops, y)
        near = ops.sum(p * (y - x), 1) if ops.host_values(log_q) is not None else None
        seen: Any = None if near is None else ops.host_values(near)
        if seen is None or not np.isfinite(seen).all():  # 0 · (-inf), if readable
            near = ops.sum(p * (raised(ops, y) - raised(ops, x)), 1)
        value = times(t * t, near - log_p + log_q)
        if weights is not None:
            value = value + weights[:, 0] * log_q
            slope *= 1.0 + weights
        slope -= p
        slope *= t * factor
        return value, slope

    def _of_top(
        self, z: Logits, teacher: TopRows, weights: Array | None, factor: Any, out: Array | None
    ) -> tuple[Values, Logits]:
        """Return the divergence, and ``weights`` times the logsumexp of z.

        The framework differentiates k + 1 columns; of the others each has the slope of their
        logsumexp, a softmax.
        """
        ops, settings = self.ops, (self.temperature, self.divergence, self.mix)
        entries, others = parted(ops, z, teacher, self.temperature)
        if teacher.tail is None and weights is None:
            value, (of_entries,) = ops.value_and_slopes(
                lambda entries: top_divergence(ops, entries, None, teacher, *settings), (entries,)
            )
            slope = 0.0 * raised(ops, z)
            return value, ops.add_along_axis(slope, teacher.indices, factor * of_entries)
        slope, log_sum = softmax_and_sum(ops, others, out)

        def value_of(entries: Array, rest: Array) -> Values:
            value = top_divergence(ops, entries, rest, teacher, *settings)
            if weights is None:
                return value
            stored = ops.where(teacher.values > MASKED / 2, entries, MASKED)
            whole = log_add(ops, ops.logsumexp(stored, 1, keepdims=True), rest)
            return value + (weights * whole)[:, 0]

        value, (of_entries, of_rest) = ops.value_and_slopes(value_of, (entries, log_sum[:, None]))
        if teacher.tail is not None and not is_plain(self.temperature, 1):
            of_rest = of_rest / divisor(ops, teacher, self.temperature)
        slope *= of_rest * factor
        return value, ops.add_along_axis(slope, teacher.indices, of_entries * factor)


def softmax_and_sum(ops: Backend, z: Logits, out: Array | None = None) -> tuple[Logits, Values]:
    """Return softmax (in ``out``, if the framework can) and logsumexp of rows by one pass of exp.

    The softmax is an array of its own: what follows may change it in place.
    """
    soft = ops.softmax(z, 1, out)
    return soft, ops.max(z, 1) - ops.log(ops.max(soft, 1))


def product(ops: Backend, hidden: Array, weight: Array, bias: Array | None = None) -> Logits:
    """Return ``hidden @ weightᵀ + bias`` in the dtype of the hidden states."""
    dtype = ops.dtype(hidden)
    z = ops.matmul(hidden, ops.matrix_transpose(ops.astype(weight, dtype)))
    return z if bias is None else z + ops.astype(bias, dtype)[None, :]


def check_token_logits(arguments: SequenceArguments, name: str, logits: Array) -> None:
    """Raise unless logits have three axes, a float dtype, and are of one process."""
    shape, dtype = tuple(logits.shape), arguments.ops.dtype(logits)
    if hasattr(logits, "full_tensor"):
        needs = f"{name} needs the logits of the whole vocabulary on each rank"
        cure = "Pass logits.full_tensor(), or local rows of tokens"
        raise arguments.wrong_type(needs, "a DTensor", cure)
    if len(shape) != 3 or not shape[2]:
        needs = f"{name} needs three axes (batch, tokens, vocab), the last one known when traced"
        raise arguments.wrong(needs, shape, "For one row of logits a text: mcld_core.kd_loss")
    if "float" not in dtype:
        raise TypeError(f"{arguments.function}: {name} needs a float dtype; got {dtype}")


def token_rows(
    arguments: SequenceArguments,
    like: Float[Array, "batch tokens _"],
    labels: Any,
    attention_mask: Any,
    sample_weight: Any,
    shift: bool,
    ignore_index: int,
    vocabulary: int,
    name: str = "labels",
) -> Tokens:
    """Return which tokens count, with their labels and weights, checked."""
    ops = arguments.ops
    arguments.flag("shift", shift)
    arguments.integer("ignore_index", ignore_index)
    kept, shape = arguments.flat_mask("attention_mask", attention_mask, like), like.shape[:2]
    if labels is not None:
        labels = flat(ops, arguments.ids(name, labels, like, shape, "one a token"))
    if shift:
        labels, kept = following(ops, like, labels, kept)
    if labels is not None:
        arguments.label_values(name, labels, kept, vocabulary, ignore_index)
        labels, counts = class_labels(ops, labels, vocabulary, ignore_index)
        kept = counts if kept is None else kept & counts
    kept = arguments.none_if_all_kept(kept)
    rows, dtype = ops.size(like, 0) * ops.size(like, 1), wide_dtype(ops.dtype(like))
    weight = None
    if sample_weight is not None:
        sample_weight = arguments.shaped("sample_weight", sample_weight, like, shape, "one a token")
        sample_weight = ops.reshape(sample_weight, (rows,))
        weight = arguments.weight(sample_weight, kept, ops.reshape(like, (rows, -1)), dtype)
    return Tokens(labels, kept, weight, dtype, (ops.size(like, 0), ops.size(like, 1)))


def reduced_loss(
    arguments: SequenceArguments,
    tokens: Tokens,
    loss: Any,
    rows: KeptRows,
    numbers: tuple[Any, ...],
    reduction: Reduction,
    normalizer: Scalar | None,
) -> Any:
    """Return the loss of the tokens that count, reduced; ``numbers`` are those it is made of."""
    ops, dtype = arguments.ops, tokens.dtype
    arguments.reduction(reduction)
    scale: Any = None
    if reduction == "sum":
        scale = 1.0
    elif reduction == "mean":
        count = tokens.weight if tokens.weight is not None else tokens.kept
        if normalizer is not None:
            count = arguments.scalar("normalizer", normalizer, rows.x, dtype)
        else:
            count = whole_weight(ops, rows.x, count, dtype)
        scale = 1.0 / count if isinstance(count, int) else ratio(ops, 0.0 * count + 1.0, count)
    rows = rows._replace(kept=tokens.kept, weight=tokens.weight, scale=scale)
    vocabulary = rows.layer[0].shape[0] if rows.layer else rows.x.shape[1]
    sizes = (
        max(_LAYER_ENTRIES // vocabulary, _LAYER_ROWS),
        max((1 + loss.is_top) * _ENTRIES // vocabulary, 1),
    )
    if any(ops.is_trained(number) for number in numbers):
        found = loss.whole(rows)
    else:
        found = ops.by_kept_block(loss, rows, sizes)
    return found if scale is not None else ops.reshape(found, tokens.shape)

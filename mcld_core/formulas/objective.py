"""The objective on a block of anchor rows: which terms it has and what they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mcld_core.arguments import keep_rows
from mcld_core.backends import Backend
from mcld_core.config import MCLDConfig
from mcld_core.formulas.contrast import (
    MASKED,
    RowsAndGradient,
    affinity,
    bounded,
    category_rows,
    cross_entropy_rows,
    decoupled_kl_rows,
    divide,
    instance_rows,
    one_hot,
    plain_kl_rows,
    times,
)
from mcld_core.formulas.similarity import embed, pull_back
from mcld_core.keys import KeyRows
from mcld_core.typing import Array, Bool, Float, Int, Scalar

TERMS = ("instance", "sample", "category", "ce")


class Weights(NamedTuple):
    """The weight of each term, the category-wise one with or without its ramp."""

    instance: Scalar = 0.0
    sample: Scalar = 0.0
    category: Scalar = 0.0
    ce: Scalar = 0.0


class Apart(NamedTuple):
    """Keys that are no negatives of an anchor, whatever their labels.

    For rows with a place: a token is contrasted within its own sequence, a window with windows
    that it does not overlap. ``excluded(anchor, key)`` gets the facts of a block of anchors,
    each (block, 1), and of all keys, each (1, keys), and returns (block, keys) bool; the anchors'
    facts are those of their own keys. The own key always counts.
    """

    excluded: Callable[[tuple[Array, ...], tuple[Array, ...]], Array]
    facts: tuple[Int[Array, "keys"], ...]  # noqa: F821
    in_category: bool = False
    """Also leave such a key out of the category-wise term, unless it shares the label."""


class Shared(NamedTuple):
    """What all anchor rows share: the key sets and the numbers of the objective."""

    keys: KeyRows | None
    """The keys of the contrasts by similarity matrix: logits at first, then `embed_keys`."""
    prototypes: KeyRows | None
    weights: Weights
    temperature: Scalar
    key_temperature: Scalar
    sample_temperature: Scalar
    beta: Scalar
    apart: Apart | None = None


def is_zero(weight: Scalar) -> bool:
    """Whether a weight is the Python number 0, so that its term need not be computed."""
    return isinstance(weight, (int, float)) and weight == 0


def is_present(config: MCLDConfig, weights: Weights, category_contrast: str) -> bool:
    """Whether the category-wise term is computed, and in this reading."""
    return config.category_contrast == category_contrast and not is_zero(weights.category)


def block_rows(
    ops: Backend,
    config: MCLDConfig,
    dtype: str,
    rows: tuple[Array, ...],
    shared: Shared,
    gradient: bool,
) -> tuple[Array, ...]:
    """Return total, instance, sample, category and ce rows (and d total / d student).

    Args:
        ops: the backend.
        config: the settings.
        dtype: the dtype to compute in.
        rows: a block of student logits, teacher logits, labels, place of the own key, and of
            which rows are kept (left out where all are).
        shared: the embedded keys and the numbers.
        gradient: append the gradient in closed form.
    """
    student, teacher, labels, own, *kept = rows
    student = bounded(ops, keep_rows(ops, ops.astype(student, dtype), *kept))
    teacher = keep_rows(ops, ops.astype(teacher, dtype), *kept)
    weights = shared.weights
    terms: dict[str, RowsAndGradient] = {}
    slope = None

    embedding = embed(ops, student, config.similarity)
    for keys in (shared.keys, shared.prototypes):
        if keys is None:
            continue
        s = _similarity(ops, embedding.rows, keys, shared.temperature)
        same = affinity(ops, labels, keys.labels, student.shape[1], dtype)
        apart = None
        if keys is shared.keys and shared.apart is not None:
            apart = _excluded(ops, shared.apart, own)
        contrasts: dict[str, RowsAndGradient] = {}
        if keys is shared.keys and not is_zero(weights.instance):
            mask = _union(ops, same if config.target_mask else None, apart)
            factor = weights.instance if gradient else None
            contrasts["instance"] = instance_rows(ops, s, mask, own, factor)
        if keys is shared.prototypes or is_present(config, weights, "labels"):
            if apart is not None and shared.apart is not None and shared.apart.in_category:
                positive = same if ops.dtype(same) == "bool" else same > 0
                s = ops.where(apart & ~positive, MASKED, s)
            factor = weights.category if gradient else None
            contrasts["category"] = category_rows(ops, s, same, factor)
        if gradient:
            d_s = _sum([d for _, d in contrasts.values()])
            slope = _plus(slope, divide(ops.matmul(d_s, keys.vectors), shared.temperature))
        terms |= contrasts
    if slope is not None:
        slope = pull_back(ops, slope, embedding)

    within: dict[str, RowsAndGradient] = {}
    if not is_zero(weights.sample):
        within["sample"] = _sample_rows(ops, config, student, teacher, labels, shared, gradient)
    if not is_zero(weights.ce):
        soft = one_hot(ops, labels, student.shape[1], dtype)
        factor = weights.ce if gradient else None
        within["ce"] = cross_entropy_rows(ops, student, soft, factor)
    if gradient and within:
        slope = _plus(slope, _sum([d for _, d in within.values()]))
    terms |= within

    zero = 0.0 * student[:, 0]
    total = _sum([times(getattr(weights, name), r) for name, (r, _) in terms.items()] or [zero])
    results = (total, *(terms[name][0] if name in terms else zero for name in TERMS))
    if not gradient:
        return results
    return (*results, 0.0 * student if slope is None else slope)


def _sample_rows(
    ops: Backend,
    config: MCLDConfig,
    student: Float[Array, "block classes"],
    teacher: Float[Array, "block classes"],
    labels: Array,
    shared: Shared,
    gradient: bool,
) -> RowsAndGradient:
    """The sample-wise term: decoupled at the label (or its arg max), or plain."""
    if student.shape[1] == 1:
        return 0.0 * student[:, 0], 0.0 * student if gradient else None
    temperature, factor = shared.sample_temperature, shared.weights.sample if gradient else None
    if not config.sample_target_mask:
        return plain_kl_rows(ops, student, teacher, temperature, factor)
    target = labels if labels.ndim == 1 else ops.argmax(labels, 1)
    return decoupled_kl_rows(ops, student, teacher, target, temperature, 1.0, shared.beta, factor)


def _similarity(
    ops: Backend, anchors: Float[Array, "block classes"], keys: KeyRows, temperature: Scalar
) -> Float[Array, "block keys"]:
    """Return S for a block of anchors, `MASKED` at the keys that do not count."""
    s = ops.matmul(divide(anchors, temperature), ops.matrix_transpose(keys.vectors))
    return s if keys.kept is None else ops.where(keys.kept[None, :], s, MASKED)


def _excluded(ops: Backend, apart: Apart, own: Array) -> Bool[Array, "block keys"]:
    anchor = tuple(ops.take(fact, own)[:, None] for fact in apart.facts)
    return apart.excluded(anchor, tuple(fact[None, :] for fact in apart.facts))


def _union(ops: Backend, same: Array | None, apart: Array | None) -> Array | None:
    """Return which keys are no negatives: of the same label (bool or 0 to 1), or apart."""
    if same is None or apart is None:
        return apart if same is None else same
    return same | apart if ops.dtype(same) == "bool" else ops.where(apart, 1.0, same)


def _sum(parts: list[Any]) -> Any:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _plus(x: Array | None, y: Array) -> Array:
    return y if x is None else x + y

"""The objective on a block of anchor rows: which terms it has and what they share."""

from __future__ import annotations

from typing import Any, NamedTuple

from mcld_core.backends import Backend
from mcld_core.batch import keep_rows
from mcld_core.config import MCLDConfig
from mcld_core.contrast import (
    MASKED,
    affinity,
    category_rows,
    cross_entropy_rows,
    decoupled_kl_rows,
    instance_rows,
    one_hot,
    plain_kl_rows,
)
from mcld_core.keys import Contrast
from mcld_core.similarity import embed, pull_back
from mcld_core.typing import Array, Scalar


class Weights(NamedTuple):
    """The weight of each term, the category-wise one before its ramp."""

    instance: Scalar = 0.0
    sample: Scalar = 0.0
    category: Scalar = 0.0
    ce: Scalar = 0.0


class Shared(NamedTuple):
    """What all anchor rows share: the keys and the numbers of the objective."""

    keys: Contrast | None
    prototypes: Contrast | None
    weights: Weights
    temperature: Scalar
    sample_temperature: Scalar
    beta: Scalar


def is_zero(weight: Scalar) -> bool:
    """Whether a weight is the Python number 0, so that its term need not be computed."""
    return isinstance(weight, (int, float)) and weight == 0


def block_rows(
    ops: Backend, config: MCLDConfig, rows: tuple[Array, ...], shared: Shared, gradient: bool
) -> tuple[Array, ...]:
    """Return total, instance, sample, category and ce rows (and d total / d student)."""
    student, teacher, labels, own, *kept = rows
    student = keep_rows(ops, student, kept[0] if kept else None)
    teacher = keep_rows(ops, teacher, kept[0] if kept else None)
    zero = 0.0 * student[:, 0]
    terms = {"instance": zero, "sample": zero, "category": zero, "ce": zero}
    total, slope = zero, None

    def add(name: str, weight: Scalar, part: tuple[Array, Array | None]) -> Array | None:
        nonlocal total
        terms[name] = part[0]
        total = total + weight * part[0]
        return None if part[1] is None else weight * part[1]

    embedding = embed(ops, student, config.similarity)
    if shared.keys is not None:
        slope = _contrast_keys(ops, config, embedding.rows, labels, own, shared, gradient, add)
    if shared.prototypes is not None:
        s = _similarity(ops, embedding.rows, shared.prototypes, shared.temperature)
        same = _same_label(ops, labels, shared.prototypes, student)
        d_s = add("category", shared.weights.category, category_rows(ops, s, same, gradient))
        slope = _plus(slope, _through(ops, d_s, shared.prototypes, shared.temperature))
    if slope is not None:
        slope = pull_back(ops, slope, embedding, config.similarity)
    if not is_zero(shared.weights.sample):
        part = _sample_rows(ops, config, student, teacher, labels, shared, gradient)
        slope = _plus(slope, add("sample", shared.weights.sample, part))
    if not is_zero(shared.weights.ce):
        soft = one_hot(ops, labels, student.shape[1], ops.dtype(student))
        part = cross_entropy_rows(ops, student, soft, gradient)
        slope = _plus(slope, add("ce", shared.weights.ce, part))
    results = (total, *terms.values())
    if not gradient:
        return results
    return (*results, 0.0 * student if slope is None else slope)


def _contrast_keys(
    ops: Backend,
    config: MCLDConfig,
    anchors: Array,
    labels: Array,
    own: Array,
    shared: Shared,
    gradient: bool,
    add: Any,
) -> Array | None:
    """The terms that share one similarity matrix: one product forward, one for the gradient."""
    keys, weights = shared.keys, shared.weights
    assert keys is not None
    s = _similarity(ops, anchors, keys, shared.temperature)
    by_labels = not is_zero(weights.category) and config.category_contrast == "labels"
    same = None
    if by_labels or config.target_mask:
        same = _same_label(ops, labels, keys, anchors)
    d_s = None
    if not is_zero(weights.instance):
        mask = same if config.target_mask else None
        d_s = add("instance", weights.instance, instance_rows(ops, s, mask, own, gradient))
    if by_labels:
        d_s = _plus(d_s, add("category", weights.category, category_rows(ops, s, same, gradient)))
    return _through(ops, d_s, keys, shared.temperature)


def _sample_rows(
    ops: Backend,
    config: MCLDConfig,
    student: Array,
    teacher: Array,
    labels: Array,
    shared: Shared,
    gradient: bool,
) -> tuple[Array, Array | None]:
    if student.shape[1] == 1:
        return 0.0 * student[:, 0], 0.0 * student if gradient else None
    temperature = shared.sample_temperature
    if not config.sample_target_mask:
        return plain_kl_rows(ops, student, teacher, temperature, gradient)
    target = labels if labels.ndim == 1 else ops.argmax(labels, 1)
    return decoupled_kl_rows(ops, student, teacher, target, temperature, 1.0, shared.beta, gradient)


def _similarity(ops: Backend, anchors: Array, keys: Contrast, temperature: Scalar) -> Array:
    """Return S for a block of anchors, `MASKED` at the keys that do not count."""
    s = ops.matmul(anchors, ops.matrix_transpose(keys.vectors)) / temperature
    return s if keys.kept is None else ops.where(keys.kept[None, :], s, MASKED)


def _through(ops: Backend, d_s: Array | None, keys: Contrast, temperature: Scalar) -> Array | None:
    """Carry a gradient with respect to S to the embedded anchors."""
    return None if d_s is None else ops.matmul(d_s, keys.vectors) / temperature


def _same_label(ops: Backend, labels: Array, keys: Contrast, like: Array) -> Array:
    return affinity(ops, labels, keys.labels, like.shape[1], ops.dtype(like))


def _plus(x: Array | None, y: Array | None) -> Array | None:
    return y if x is None else x if y is None else x + y

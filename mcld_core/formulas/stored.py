"""Teacher rows of which the largest entries are stored: the formulas without a dense row.

A stored row is its k entries and one level that all other classes share, so a softmax over it,
an inner product with it and a divergence from it need the k entries, the level, and of the other
row the entries at the same places, the sum and the logsumexp. All equal the formulas of
`mcld_core.formulas.divergence` on the dense row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mcld_core.backends import Backend
from mcld_core.formulas.divergence import (
    MASKED,
    Target,
    binary_divergence,
    divide,
    log_sum_exp,
    softened,
)
from mcld_core.typing import Array, Float, Int, Logits, Pairs, Places, Scalar, Values


class StoredRows(NamedTuple):
    """Rows of logits: ``values`` at ``indices``, and ``rest`` everywhere else."""

    values: Float[Array, "rows k"]
    indices: Int[Array, "rows k"]
    """Each at most once in a row."""
    rest: Float[Array, "rows 1"] | None = None
    """None: the other classes have probability 0. `MASKED` means the same of one row."""


def parts_of(teacher: Array | StoredRows) -> tuple[Array, ...]:
    """Return the arrays of a teacher's rows, one entry a row each, dense or stored."""
    if isinstance(teacher, StoredRows):
        return tuple(x for x in teacher if x is not None)
    return (teacher,)


def of_parts(like: Array | StoredRows, parts: tuple[Array, ...]) -> Array | StoredRows:
    """Return what `parts_of` took apart, of other rows."""
    return StoredRows(*parts) if isinstance(like, StoredRows) else parts[0]


class StoredKeys(NamedTuple):
    """Probabilities of stored rows as keys: sparse, but for what all classes have."""

    sparse: Any
    """(keys, classes), as the backend multiplies by it: what the entries have above ``rest``."""
    rest: Float[Array, "keys 1"] | None


def stored_probabilities(
    ops: Backend, rows: StoredRows, dtype: str, classes: int, temperature: Scalar
) -> tuple[Float[Array, "rows k"], Float[Array, "rows 1"] | None]:
    """Return ``softmax(t / T)`` of stored rows: what each entry has above the rest, and the rest.

    The rest is None where it is 0 in all rows.
    """
    log_p, log_rest = _log_softmax(ops, _scaled(ops, rows, dtype, temperature), classes)
    if log_rest is None:
        return ops.exp(log_p), None
    return ops.exp(log_p) - ops.exp(log_rest), ops.exp(log_rest)


def stored_keys(
    ops: Backend, rows: StoredRows, dtype: str, classes: int, key_temperature: Scalar
) -> StoredKeys:
    """Return the probabilities of stored rows as keys."""
    weights, rest = stored_probabilities(ops, rows, dtype, classes, key_temperature)
    return StoredKeys(ops.sparse(weights, rows.indices, classes), rest)


def stored_products(ops: Backend, anchors: Logits, keys: StoredKeys) -> Pairs:
    """Return the inner product of each anchor with each key."""
    products = ops.sparse_matmul(anchors, keys.sparse)
    if keys.rest is None:
        return products
    return products + ops.sum(anchors, 1, keepdims=True) * ops.reshape(keys.rest, (1, -1))


def stored_kl_divergence(
    ops: Backend, student: Logits, teacher: StoredRows, temperature: Scalar
) -> Values:
    """Plain distillation of a stored row: ``T² KL(softmax(t/T) ‖ softmax(s/T))``."""
    classes = student.shape[1]
    student = divide(student, temperature)
    rows = _scaled(ops, teacher, ops.dtype(student), temperature)
    log_p, log_rest = _log_softmax(ops, rows, classes)
    at_entries = ops.take_along_axis(student, rows.indices, 1)
    log_sum = log_sum_exp(ops, student)[:, None]
    value = ops.sum(ops.exp(log_p) * (log_p - at_entries + log_sum), 1)
    if log_rest is not None:
        count = float(classes - rows.values.shape[1])
        others = ops.sum(student, 1) - ops.sum(at_entries, 1) - count * log_sum[:, 0]
        value = value + ops.exp(log_rest[:, 0]) * (count * log_rest[:, 0] - others)
    return temperature * temperature * value


def stored_reverse_divergence(
    ops: Backend, student: Logits, teacher: StoredRows, temperature: Scalar
) -> Values:
    """``T² KL(softmax(s/T) ‖ softmax(t/T))``; +inf where the teacher rules out what is not stored.

    The student's other classes are those left when its entries at the stored places are masked.
    """
    log_q, log_p, log_rest, places = _both(ops, student, teacher, temperature)
    at_entries = ops.take_along_axis(log_q, places, 1)
    value = ops.sum(ops.exp(at_entries) * (at_entries - log_p), 1)
    others = ops.put_along_axis(log_q, places, MASKED)
    if log_rest is not None:
        value = value + ops.sum(ops.exp(others) * (others - log_rest), 1)
    ruled_out = ops.sum(ops.exp(others), 1) > 0
    if log_rest is not None:
        ruled_out = ruled_out & (log_rest[:, 0] <= MASKED / 2)
    absent = ops.exp(at_entries) * ops.astype(log_p <= MASKED / 2, ops.dtype(log_q))
    ruled_out = ruled_out | (ops.sum(absent, 1) > 0)
    return ops.where(ruled_out, float("inf"), temperature * temperature * value)


def stored_mixed_divergence(
    ops: Backend, student: Logits, teacher: StoredRows, temperature: Scalar, mix: Scalar
) -> Values:
    """``T² [ μ KL(p ‖ m) + (1 - μ) KL(q ‖ m) ]``, ``m = μ p + (1 - μ) q``, of a stored row."""
    log_q, log_p, log_rest, places = _both(ops, student, teacher, temperature)
    mix = ops.astype(ops.asarray(mix, student), ops.dtype(student))

    def summed(log_p: Array, log_q: Array) -> Array:
        log_m = _log_add(ops, log_p + ops.log(mix), log_q + ops.log(1.0 - mix))
        of_p = mix * ops.exp(log_p) * (log_p - log_m)
        return ops.sum(of_p + (1.0 - mix) * ops.exp(log_q) * (log_q - log_m), 1)

    value = summed(log_p, ops.take_along_axis(log_q, places, 1))
    others = ops.put_along_axis(log_q, places, MASKED)
    if log_rest is None:
        left = ops.sum(ops.exp(others), 1)
        value = value - (1.0 - mix) * ops.log(1.0 - mix) * left
    else:
        value = value + summed(log_rest + 0.0 * ops.stop_gradient(others), others)
        k = float(places.shape[1])  # the masked places count as a student's probability of 0
        value = value + k * mix * ops.log(mix) * ops.exp(log_rest[:, 0])
    return temperature * temperature * value


def stored_decoupled_divergence(
    ops: Backend,
    student: Logits,
    teacher: StoredRows,
    target: Places,
    temperature: Scalar,
    beta: Scalar,
) -> Values:
    """Decoupled distillation of a stored row: ``T² [KL(b^t ‖ b^s) + β KL(r^t ‖ r^s)]``."""
    classes, dtype = student.shape[1], ops.dtype(student)
    place = Target.of(ops, target, classes)
    index, has_target = place
    student = divide(student, temperature)
    rows = _scaled(ops, teacher, dtype, temperature)
    at_target, rest = place.split(ops, student)
    at_entries = ops.take_along_axis(student, rows.indices, 1)
    log_sum = log_sum_exp(ops, rest)[:, None]

    is_target = (rows.indices == index) & has_target
    is_stored = ops.sum(ops.astype(is_target, dtype), 1, keepdims=True)
    outside = ops.astype(has_target, dtype) - is_stored  # 1: the target is not an entry of the row
    entries = ops.where(is_target, MASKED, rows.values)
    teacher_at_target = ops.sum(ops.where(is_target, rows.values, 0.0), 1, keepdims=True)
    teacher_log_sum = ops.logsumexp(entries, 1, keepdims=True)
    if rows.rest is None:
        teacher_at_target = teacher_at_target + MASKED * outside
    else:
        teacher_at_target = teacher_at_target + ops.where(outside > 0, rows.rest, 0.0)
        count = float(classes - rows.values.shape[1]) - outside
        spread = rows.rest + ops.log(ops.where(count > 0, count, 1.0))
        spread = ops.where(count > 0, spread, MASKED)
        teacher_log_sum = _log_add(ops, teacher_log_sum, spread)

    log_r = entries - teacher_log_sum
    within = ops.sum(ops.exp(log_r) * (log_r - at_entries + log_sum), 1, keepdims=True)
    if rows.rest is not None:
        log_r = rows.rest - teacher_log_sum
        others = ops.sum(student, 1, keepdims=True) - ops.sum(at_entries, 1, keepdims=True)
        others = others - outside * at_target - count * log_sum
        within = within + ops.exp(log_r) * (count * log_r - others)
    has_rest = ops.astype(teacher_log_sum > MASKED / 2, dtype)  # else the target is all there is
    split = binary_divergence(ops, teacher_at_target - teacher_log_sum, at_target - log_sum)
    value = ops.astype(has_target, dtype) * split + beta * has_rest * within
    return temperature * temperature * value[:, 0]


def _both(
    ops: Backend, student: Array, teacher: StoredRows, temperature: Scalar
) -> tuple[Array, Array, Array | None, Array]:
    """Return ``log q``, the stored ``log p``, that of each other class, and the places."""
    rows = _scaled(ops, teacher, ops.dtype(student), temperature)
    log_p, log_rest = _log_softmax(ops, rows, student.shape[1])
    return ops.log_softmax(divide(student, temperature), 1), log_p, log_rest, rows.indices


def _scaled(ops: Backend, rows: StoredRows, dtype: str, temperature: Scalar) -> StoredRows:
    """Return the rows over the temperature, raised to `MASKED`."""
    values, rest = (
        None if x is None else softened(ops, ops.astype(x, dtype), temperature)
        for x in (rows.values, rows.rest)
    )
    return StoredRows(values, rows.indices, rest)


def _log_softmax(ops: Backend, rows: StoredRows, classes: int) -> tuple[Array, Array | None]:
    """Return the log-probabilities of the entries, and of each other class."""
    log_sum = ops.logsumexp(rows.values, 1, keepdims=True)
    count = classes - rows.values.shape[1]
    if rows.rest is None or count == 0:
        return rows.values - log_sum, None
    spread = rows.rest + ops.log(0.0 * rows.rest + float(count))
    log_sum = _log_add(ops, log_sum, spread)
    return rows.values - log_sum, rows.rest - log_sum


def _log_add(ops: Backend, x: Array, y: Array) -> Array:
    peak = ops.maximum(x, y)
    return peak + ops.log(ops.exp(x - peak) + ops.exp(y - peak))

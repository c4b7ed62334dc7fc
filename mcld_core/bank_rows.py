"""Rows as a `TeacherBank` stores them: checked, narrowed, numbered, and where the next ones go."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcld_core.arguments import Arguments, Checks, wide_dtype
from mcld_core.backends import Backend
from mcld_core.typing import Array

_LARGEST = {
    "float16": float(np.finfo("float16").max),
    "bfloat16": float.fromhex("0x1.fep127"),
    "float32": float(np.finfo("float32").max),
    "float64": float(np.finfo("float64").max),
}
DTYPES = tuple(_LARGEST)
_HASHED = 2**31 - 1


def entries(
    arguments: Arguments, name: str, rows: Array, beside: tuple[Any, Any, Any], ignore_index: int
) -> dict[str, Array]:
    """Return rows, checked and converted, as the fields of a bank that is full of them.

    ``beside`` are labels, ``where`` and ids; the int label ``ignore_index`` marks no sample.
    """
    ops, (labels, where, index) = arguments.ops, beside
    given = arguments.teacher_batch(rows, (labels, None, where), ignore_index, name)
    labels = given.labels
    if labels is None:
        labels = ops.argmax(given.logits, 1)
    elif labels.ndim == 2:
        labels = ops.astype(labels, wide_dtype(ops.dtype(rows)))
    if index is None:
        ids = ops.minimum(ops.arange(ops.size(rows, 0), rows), -1)
    else:
        ids = ops.asarray(index, rows)
        arguments.vector("index", ids, rows.shape[0])
        if not ops.dtype(ids).startswith(("int", "uint")):
            raise TypeError(
                f"{arguments.function}: index needs an integer dtype; got {ops.dtype(ids)}"
            )
        arguments.device("index", ids, rows, name)
        ids = ops.where(given.kept, _narrow_ids(ops, ids), -1)
    cursor = ops.asarray(np.asarray(0, "int32"), rows)
    return {
        "vectors": given.logits, "labels": labels, "where": given.kept, "ids": ids, "cursor": cursor
    }  # fmt: skip


def _narrow_ids(ops: Backend, ids: Array) -> Array:
    """Return ids as int32: those of 64 bits that do not fit are hashed into 31."""
    unsigned = ops.dtype(ids).startswith("uint")
    if ops.dtype(ids) in ("uint32", "uint64"):
        ids = ops.astype(ids, "int64")  # from 2**63 on it wraps to a negative number
    if ops.dtype(ids) == "int64":
        hashed = (ids % _HASHED + (ids // 2**31) * 1540483477) % _HASHED
        fits = ids < 2**31
        fits = fits & (ids >= 0) if unsigned else fits
        ids = ops.where(fits, ops.maximum(ids, -1), hashed)
    return ops.astype(ids, "int32")


def places(
    ops: Backend, kept: Array, capacity: int, cursor: Array
) -> tuple[Array, Array, Array, Array]:
    """Line up the kept rows from the cursor on, without a dynamic shape.

    Returns ``target, source, is_new, count``: bank row ``target[k]`` takes batch row ``source[k]``
    if ``is_new[k]``, and else keeps its content. So no target repeats or lies out of range.
    """
    rank = ops.cumulative_sum(ops.astype(kept, "int32"))
    kept_rows = ops.astype(ops.sum(ops.astype(kept, "int32"), None), "int32")
    count = ops.minimum(kept_rows, capacity)
    slot = ops.arange(ops.size(kept, 0), kept)[:capacity]
    source = ops.searchsorted(rank, slot + (kept_rows - count + 1))  # the first row of that rank
    last = ops.size(kept, 0) - 1
    return (cursor + slot) % capacity, ops.minimum(source, last), slot < count, count


def is_among(ops: Backend, ids: Array, others: Array) -> Array:
    """Return which ids are known and among the others."""
    unknown = ops.asarray(np.asarray([-1], "int32"), ids)  # so that there is one, always
    others = ops.sort(ops.concat([others, unknown]))
    place = ops.minimum(ops.searchsorted(others, ids), ops.size(others, 0) - 1)
    return (ops.take(others, place) == ids) & (ids >= 0)


def in_dtype(function: str, ops: Backend, logits: Array, dtype: str) -> Array:
    """Return rows in the bank's dtype; raise for one that is unknown, or that a framework lacks."""
    Checks(function).choice("dtype", dtype, DTYPES)
    try:
        return narrowed(ops, logits, dtype)
    except TypeError as error:
        raise TypeError(
            f"{function}: dtype {dtype!r} does not exist in {ops.name}; choose another of "
            f"{', '.join(DTYPES)}"
        ) from error


def narrowed(ops: Backend, x: Array, dtype: str) -> Array:
    """Convert; a finite number that the dtype cannot hold becomes the largest one that it can."""
    largest = _LARGEST.get(dtype)
    if largest is not None and _LARGEST.get(ops.dtype(x), 0.0) > largest:
        x = ops.where(ops.isfinite(x), ops.minimum(ops.maximum(x, -largest), largest), x)
    return ops.astype(x, dtype)

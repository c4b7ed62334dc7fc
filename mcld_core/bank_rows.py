"""Rows as a `TeacherBank` stores them: checked, narrowed, numbered, and where the next ones go."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcld_core.arguments import Arguments, wide_dtype
from mcld_core.backends import Backend
from mcld_core.typing import Array

_LARGEST = {
    "float16": float(np.finfo("float16").max),
    "bfloat16": float.fromhex("0x1.fep127"),
    "float32": float(np.finfo("float32").max),
    "float64": float(np.finfo("float64").max),
}
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
        ids = ops.maximum(arguments.ids("index", index, rows, name), -1)
        if ops.dtype(ids) == "int64":  # those that do not fit are hashed into 31 bits
            hashed = (ids % _HASHED + (ids // 2**31) * 1540483477) % _HASHED
            ids = ops.astype(ops.where(ids < 2**31, ids, hashed), "int32")
        ids = ops.where(given.kept, ids, -1)
    cursor = ops.asarray(np.asarray(0, "int32"), rows)
    return {
        "vectors": given.logits, "labels": labels, "where": given.kept, "ids": ids, "cursor": cursor
    }  # fmt: skip


def places(
    ops: Backend, kept: Array, capacity: int, cursor: Array
) -> tuple[Array, Array, Array, Array]:
    """Line up the kept rows from the cursor on, without a dynamic shape.

    Returns ``target, source, is_new, count``: bank row ``target[k]`` takes batch row ``source[k]``
    if ``is_new[k]``, and else keeps its content. So no target repeats or lies out of range.
    """
    row, is_kept = ops.arange(ops.size(kept, 0), kept), ops.astype(kept, "int32")
    rank = ops.cumulative_sum(is_kept)
    kept_rows = ops.astype(ops.sum(is_kept, None), "int32")
    count = ops.minimum(kept_rows, capacity)
    in_order = ops.put(row, ops.where(kept, rank - 1, kept_rows + row - rank), row)
    slot = row[:capacity]
    source = ops.minimum(slot + (kept_rows - count), ops.size(kept, 0) - 1)
    return (cursor + slot) % capacity, ops.take(in_order, source), slot < count, count


def narrowed(ops: Backend, x: Array, dtype: str) -> Array:
    """Convert; a finite number that the dtype cannot hold becomes the largest one that it can."""
    largest = _LARGEST.get(dtype)
    if largest is not None and _LARGEST.get(ops.dtype(x), 0.0) > largest:
        x = ops.where(ops.isfinite(x), ops.minimum(ops.maximum(x, -largest), largest), x)
    return ops.astype(x, dtype)

"""The operations in NumPy: the reference, without gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcld_core.backends.protocol import Arrays, KeptRows, RowFunction

Array = Any
name = "numpy"
checks_devices = False
least_rows = 128


def is_tensor(x: Any) -> bool:
    return isinstance(x, (np.ndarray, np.generic))


def is_trained(x: Any) -> bool:
    return False


def asarray(x: Any, like: Array | None = None) -> Array:
    return np.asarray(x)


def astype(x: Array, dtype: str) -> Array:
    return x.astype(dtype, copy=False)


def dtype(x: Array) -> str:
    return str(x.dtype)


def host_values(x: Array) -> Array:
    return x


size = np.size
where = np.where
exp = np.exp
expm1 = np.expm1
tanh = np.tanh
log = np.log
sqrt = np.sqrt
abs = np.abs
maximum = at_least = np.maximum
minimum = np.minimum
isfinite = np.isfinite
matmul = np.matmul
matrix_transpose = np.transpose
sum = np.sum
max = np.max
all = np.all
concat = np.concatenate
reshape = np.reshape
take_along_axis = np.take_along_axis


def log_sigmoid(x: Array) -> Array:
    return -np.logaddexp(-x, np.zeros((), x.dtype))


def argmax(x: Array, axis: int) -> Array:
    return np.argmax(x, axis=axis).astype("int32")


def softmax(x: Array, axis: int, out: Array | None = None) -> Array:
    exponentials = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return exponentials / np.sum(exponentials, axis=axis, keepdims=True)


def log_softmax(x: Array, axis: int) -> Array:
    shifted = x - np.max(x, axis=axis, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


def logsumexp(x: Array, axis: int, keepdims: bool = False) -> Array:
    peak = np.max(x, axis=axis, keepdims=True)
    result = peak + np.log(np.sum(np.exp(x - peak), axis=axis, keepdims=True))
    return result if keepdims else np.squeeze(result, axis)


def cumulative_sum(x: Array) -> Array:
    return np.cumsum(x, dtype=x.dtype)


def arange(n: int, like: Array) -> Array:
    return np.arange(n, dtype="int32")


def take(x: Array, indices: Array) -> Array:
    return np.take(x, indices, axis=0)


def put(x: Array, indices: Array, values: Array) -> Array:
    x = x.copy()
    x[indices] = values
    return x


def put_along_axis(x: Array, indices: Array, values: Any) -> Array:
    x = x.copy()
    np.put_along_axis(x, indices, values, axis=1)
    return x


def add_along_axis(x: Array, indices: Array, values: Array) -> Array:
    x = x.copy()
    np.add.at(x, (np.arange(x.shape[0])[:, None], indices), values)
    return x


def stop_gradient(x: Array) -> Array:
    return x


def by_block(
    function: RowFunction, prepare: Any, rows: Arrays, shared: Any, block_rows: int | None
) -> Arrays:
    shared, count = prepare(shared), rows[0].shape[0]
    if block_rows is None or count <= block_rows:
        return function(rows, shared)
    blocks = [
        function(tuple(x[start : start + block_rows] for x in rows), shared)
        for start in range(0, count, block_rows)
    ]
    return tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))


def by_kept_block(loss: Any, rows: KeptRows, sizes: tuple[int, int]) -> Array:
    x, count = rows.x, rows.x.shape[0]
    places = np.arange(count) if rows.kept is None else np.flatnonzero(rows.kept)
    values = np.zeros(count, loss.dtype)
    size = sizes[0] if rows.layer or rows.shared else sizes[1]
    for start in range(0, len(places), size):
        place = places[start : start + size]
        part = rows._replace(x=x[place], beside=tuple(y[place] for y in rows.beside))
        values[place] = loss.whole(part._replace(kept=None, weight=None, scale=None))
    values = values if rows.weight is None else values * rows.weight
    return values if rows.scale is None else rows.scale * values.sum()

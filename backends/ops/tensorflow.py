"""The operations in TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mcld_core.backends.ops.tensorflow_blocks import map_rows as map_rows

Array = Any
name = "tensorflow"


def is_tensor(x: Any) -> bool:
    return isinstance(x, (tf.Tensor, tf.Variable))


def is_trained(x: Any) -> bool:
    return False


def asarray(x: Any, like: Array | None = None) -> Array:
    return tf.convert_to_tensor(x, tf.float64 if isinstance(x, float) else None)


def astype(x: Array, dtype: str) -> Array:
    return tf.cast(x, dtype)


def dtype(x: Array) -> str:
    return str(x.dtype.name)


def size(x: Array, axis: int) -> Any:
    static = x.shape[axis]
    return tf.shape(x)[axis] if static is None else static


def device(x: Array) -> str | None:
    return None  # TensorFlow copies between devices as its own placement rules say


def host_values(x: Array) -> np.ndarray[Any, Any] | None:
    if not tf.executing_eagerly() or not hasattr(x, "numpy") or "CPU" not in x.device:
        return None
    return np.asarray(x.numpy())


exp = tf.exp
log = tf.math.log
sqrt = tf.sqrt
abs = tf.abs
softplus = tf.math.softplus
maximum = tf.maximum
minimum = tf.minimum
isfinite = tf.math.is_finite
matrix_transpose = tf.transpose
stop_gradient = tf.stop_gradient


def where(condition: Array, x: Any, y: Any) -> Array:
    dtype = x.dtype if tf.is_tensor(x) else getattr(y, "dtype", None)
    return tf.where(condition, tf.convert_to_tensor(x, dtype), tf.convert_to_tensor(y, dtype))


def matmul(x: Array, y: Array) -> Array:
    return tf.matmul(x, y)


def sum(x: Array, axis: int | None, keepdims: bool = False) -> Array:
    return tf.reduce_sum(x, axis=axis, keepdims=keepdims)


def max(x: Array, axis: int, keepdims: bool = False) -> Array:
    return tf.reduce_max(x, axis=axis, keepdims=keepdims)


def all(x: Array, axis: int) -> Array:
    return tf.reduce_all(x, axis=axis)


def argmax(x: Array, axis: int) -> Array:
    return tf.argmax(x, axis=axis, output_type=tf.int32)


def softmax(x: Array, axis: int) -> Array:
    return tf.nn.softmax(x, axis=axis)


def log_softmax(x: Array, axis: int) -> Array:
    return tf.nn.log_softmax(x, axis=axis)


def cumulative_sum(x: Array) -> Array:
    return tf.cumsum(x)


def sort(x: Array) -> Array:
    return tf.sort(x)


def searchsorted(x: Array, values: Array) -> Array:
    return tf.searchsorted(x, values)


def arange(n: Any, like: Array) -> Array:
    return tf.range(n, dtype=tf.int32)


def reshape(x: Array, shape: Sequence[Any]) -> Array:
    return tf.reshape(x, tuple(shape))


def take(x: Array, indices: Array) -> Array:
    return tf.gather(x, indices, axis=0)


def take_along_axis(x: Array, indices: Array, axis: int) -> Array:
    return tf.gather(x, indices, axis=axis, batch_dims=axis)


def concat(arrays: Sequence[Array]) -> Array:
    return tf.concat(arrays, axis=0)


def put(x: Array, indices: Array, values: Array) -> Array:
    return tf.tensor_scatter_nd_update(x, indices[:, None], values)


def put_along_axis(x: Array, indices: Array, values: Array) -> Array:
    rows = tf.broadcast_to(tf.range(size(x, 0), dtype=indices.dtype)[:, None], tf.shape(indices))
    return tf.tensor_scatter_nd_update(x, tf.stack([rows, indices], 2), values)

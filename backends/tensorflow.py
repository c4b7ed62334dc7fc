"""The operations in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mcld_core.backends.protocol import Arrays, KeptRows, RowFunction

Array = Any
name = "tensorflow"
checks_devices = False  # TensorFlow copies between them as its own placement rules say
least_rows = 256


def is_tensor(x: Any) -> bool:
    return isinstance(x, (tf.Tensor, tf.Variable))


def is_trained(x: Any) -> bool:
    return is_tensor(x)  # whether a tape watches it cannot be asked


def asarray(x: Any, like: Array | None = None) -> Array:
    return tf.convert_to_tensor(x, tf.float64 if isinstance(x, float) else None)


def astype(x: Array, dtype: str) -> Array:
    return tf.cast(x, dtype)


def dtype(x: Array) -> str:
    return str(x.dtype.name)


def size(x: Array, axis: int) -> Any:
    static = x.shape[axis]
    return tf.shape(x)[axis] if static is None else static


def host_values(x: Array) -> np.ndarray[Any, Any] | None:
    if not tf.executing_eagerly() or not hasattr(x, "numpy") or "CPU" not in x.device:
        return None
    return np.asarray(x.numpy())


exp = tf.exp
expm1 = tf.math.expm1
tanh = tf.tanh
log = tf.math.log
sqrt = tf.sqrt
abs = tf.abs
log_sigmoid = tf.math.log_sigmoid
maximum = at_least = tf.maximum
minimum = tf.minimum
isfinite = tf.math.is_finite
matmul = tf.matmul
matrix_transpose = tf.transpose
sum = tf.reduce_sum
max = tf.reduce_max
all = tf.reduce_all
logsumexp = tf.reduce_logsumexp
log_softmax = tf.nn.log_softmax
cumulative_sum = tf.cumsum
reshape = tf.reshape
stop_gradient = tf.stop_gradient


def softmax(x: Array, axis: int, out: Array | None = None) -> Array:
    return tf.nn.softmax(x, axis)


def where(condition: Array, x: Any, y: Any) -> Array:
    dtype = x.dtype if tf.is_tensor(x) else getattr(y, "dtype", None)
    return tf.where(condition, tf.convert_to_tensor(x, dtype), tf.convert_to_tensor(y, dtype))


def argmax(x: Array, axis: int) -> Array:
    return tf.argmax(x, axis=axis, output_type=tf.int32)


def arange(n: Any, like: Array) -> Array:
    return tf.range(n, dtype=tf.int32)


def take(x: Array, indices: Array) -> Array:
    return tf.gather(x, indices, axis=0)


def take_along_axis(x: Array, indices: Array, axis: int) -> Array:
    return tf.gather(x, indices, axis=axis, batch_dims=axis)


def concat(arrays: Sequence[Array]) -> Array:
    return tf.concat(arrays, axis=0)


def put(x: Array, indices: Array, values: Array) -> Array:
    return tf.tensor_scatter_nd_update(x, indices[:, None], values)


def put_along_axis(x: Array, indices: Array, values: Any) -> Array:
    values = tf.broadcast_to(tf.cast(values, x.dtype), tf.shape(indices))
    return tf.tensor_scatter_nd_update(x, _places(indices), values)


def add_along_axis(x: Array, indices: Array, values: Array) -> Array:
    return tf.tensor_scatter_nd_add(x, _places(indices), values)


def _places(indices: Array) -> Array:
    """Return row and column of each index."""
    rows = tf.range(size(indices, 0), dtype=indices.dtype)[:, None]
    return tf.stack([tf.broadcast_to(rows, tf.shape(indices)), indices], 2)


def by_block(
    function: RowFunction, prepare: Any, rows: Arrays, shared: Any, block_rows: Any
) -> Arrays:
    def plain(student: Array) -> Arrays:
        return function((student, *rows[1:]), prepare(shared))

    count = rows[0].shape[0]
    known = isinstance(block_rows, int) and count is not None
    if block_rows is None or (known and count <= block_rows):
        return plain(rows[0])

    @tf.custom_gradient
    def evaluate(student: Array) -> Any:
        ready = prepare(shared)

        def with_gradient(block: Arrays) -> Arrays:
            with tf.GradientTape() as tape:
                tape.watch(block[0])
                total, *results = function(block, ready)
            return (total, *results, tape.gradient(total, block[0]))

        wide = tf.float64 if student.dtype == tf.float64 else tf.float32
        blocks = (tf.cast(student, wide), *rows[1:])
        *results, slope = _mapped(with_gradient, blocks, block_rows)

        def gradient(cotangent: Array, *_: Any) -> Array:
            return _first_derivative(lambda x: plain(x)[0], student, cotangent, slope)

        return tuple(results), gradient

    return evaluate(rows[0])


def value_and_slopes(function: Callable[..., Array], arrays: Arrays) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(arrays)
        value = function(*arrays)
    return value, tape.gradient(value, arrays, unconnected_gradients="zero")


def by_kept_block(loss: Any, rows: KeptRows, sizes: tuple[int, int]) -> Array:
    if rows.layer and rows.scale is None:
        return loss.whole(rows)
    size = sizes[0] if rows.layer or rows.shared else sizes[1]
    if rows.x.shape[0]:
        size = min(size, rows.x.shape[0])

    @tf.custom_gradient
    def evaluate(*trained: Array) -> Any:
        given = rows._replace(x=trained[0], layer=trained[1:])
        values, *slopes = _kept_blocks(loss, given, size)
        total = values if rows.scale is None else rows.scale * tf.reduce_sum(values)

        def gradient(cotangent: Array) -> Any:
            factor = cotangent[:, None] if rows.scale is None else cotangent
            pairs = zip(slopes, trained, strict=True)
            given = (tf.cast(tf.cast(factor, y.dtype) * y, x.dtype) for y, x in pairs)
            message = "this loss has no second derivative"
            return [tf.raw_ops.PreventGradient(input=x, message=message) for x in given]

        return total, gradient

    return evaluate(rows.x, *rows.layer)


def _kept_blocks(loss: Any, rows: KeptRows, size: int) -> list[Array]:
    """Return weighted values a row, and the slopes of x, weight and bias of their scaled sum.

    The rows that count are sorted to the front; the loop ends after the last of them. The last
    block is a whole one for XLA: places beyond the rows are the last row's. XLA writes into one
    array; a graph copies the array of a loop whenever it is written to, so it keeps the blocks.
    """
    x, layer, count = rows.x, rows.layer, tf.shape(rows.x)[0]
    wide = tf.float64 if x.dtype == tf.float64 else tf.float32
    narrow = wide if x.dtype == tf.float16 else x.dtype
    scale = 1.0 if rows.scale is None else rows.scale
    order, live = tf.range(count), count
    if rows.kept is not None:
        order = tf.argsort(tf.cast(~rows.kept, tf.int32), stable=True)
        live = tf.reduce_sum(tf.cast(rows.kept, tf.int32))
    blocks, in_place = -(-live // size), _is_for_xla()

    def put(array: Any, i: Array, places: Array, part: Array) -> Any:
        if in_place:
            return tf.tensor_scatter_nd_update(array, places[:, None], part)
        return array.write(i, part)

    def joined(array: Any) -> Array:
        parts = array.gather(tf.range(tf.maximum(blocks, 1)))
        parts = tf.reshape(parts, [-1, *parts.shape[2:]])[:count]
        if rows.kept is None:
            return parts
        places = order[: tf.shape(parts)[0], None]
        return tf.scatter_nd(places, parts, [count, *parts.shape[1:]])

    def step(i: Array, values: Any, of_x: Any, *sums: Array) -> Any:
        beyond = i * size + tf.range(size)
        places = tf.gather(order, tf.minimum(beyond, count - 1))
        block, fresh = tf.gather(x, places), beyond < live
        z = tf.cast(_product(block, *layer) if layer else block, wide)
        beside = loss.prepare(tuple(tf.gather(y, places) for y in rows.beside), rows.shared)
        found, slope = loss.with_slope(z, beside)
        factor = tf.ones([size], wide) if rows.weight is None else tf.gather(rows.weight, places)
        counts = tf.ones([size], "bool") if rows.kept is None else tf.gather(rows.kept, places)
        values = put(values, i, places, where(counts, factor * found, 0.0))
        factor = factor if layer else factor * scale  # half precision keeps no mean's slope
        slope = where(counts[:, None], slope * factor[:, None], 0.0)
        if not layer:
            return i + 1, values, put(of_x, i, places, tf.cast(slope, narrow))
        slope = tf.cast(slope, x.dtype)
        part = tf.cast(tf.matmul(slope, tf.cast(layer[0], x.dtype)), wide)
        of_x = put(of_x, i, places, tf.cast(scale * part, narrow))
        slope = where(fresh[:, None], slope, 0.0)
        block = where(counts[:, None], block, 0.0)  # 0 · NaN of a row that does not count
        of_weight = tf.cast(tf.matmul(slope, block, transpose_a=True), wide)
        parts = of_weight, tf.reduce_sum(tf.cast(slope, wide), 0)
        totals = (y + scale * part for y, part in zip(sums, parts, strict=False))
        return i + 1, values, of_x, *totals

    def made(dtype: Any, *row: int) -> Any:
        if in_place:
            return tf.zeros([count, *row], dtype)
        most = tf.maximum(-(-count // size), 1)
        return tf.TensorArray(dtype, most, element_shape=[size, *row])

    arrays = made(wide), made(narrow, x.shape[1]), *(tf.zeros(y.shape, wide) for y in layer)
    _, *found = tf.while_loop(
        lambda i, *_: i < blocks, step, (tf.constant(0), *arrays), parallel_iterations=1
    )
    return found if in_place else [*map(joined, found[:2]), *found[2:]]


def _is_for_xla() -> bool:
    """Whether XLA compiles the graph that is traced: it, or one around it, is marked so."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = graph._get_control_flow_context()  # no public name tells it
        if context is not None and context.IsXLAContext():
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


def _product(x: Array, weight: Array, bias: Array | None = None) -> Array:
    z = tf.matmul(x, tf.cast(weight, x.dtype), transpose_b=True)
    return z if bias is None else z + tf.cast(bias, x.dtype)[None, :]


def _first_derivative(
    plain: Callable[[Array], Array], student: Array, cotangent: Array, slope: Array
) -> Array:
    """Return cotangent × slope, whose own derivative goes through the plain form."""

    @tf.custom_gradient
    def first(student: Array, cotangent: Array) -> Any:
        def second(upstream: Array) -> Any:
            with tf.GradientTape() as outer:
                outer.watch([student, cotangent])
                with tf.GradientTape() as inner:
                    inner.watch(student)
                    value = plain(student)
                first = inner.gradient(value, student, output_gradients=cotangent)
            return outer.gradient(first, [student, cotangent], output_gradients=upstream)

        return tf.cast(cotangent[:, None] * slope, student.dtype), second

    return first(student, cotangent)


def _mapped(function: Callable[[Arrays], Arrays], rows: Arrays, block_rows: Any) -> Arrays:
    """Loop over blocks of one size, the rows padded with zeros that are cut off again.

    XLA needs every block to have the same shape: a ragged last slice gives wrong rows there.
    """
    count = size(rows[0], 0)
    blocks = tf.maximum(-(-count // block_rows), 1)
    each = -(-count // blocks)
    missing = blocks * each - count

    def split(x: Array) -> Array:
        # of pairs TensorFlow may not know how many keys there are
        rest = [size(x, axis) for axis in range(1, len(x.shape))]
        zeros = tf.zeros([missing, *rest], x.dtype)
        padded = tf.cond(missing > 0, lambda: tf.concat([x, zeros], 0), lambda: x)
        return tf.reshape(padded, [blocks, each, *rest])

    dtypes = list[Any]()  # of the results

    def whole() -> Arrays:
        results = function(rows)
        dtypes[:] = [x.dtype for x in results]
        return results

    def looped() -> Arrays:
        blocked = tuple(split(x) for x in rows)

        def block(i: Any) -> Arrays:
            return function(tuple(x[i] for x in blocked))

        if tf.executing_eagerly():
            results = tuple(map(tf.stack, zip(*map(block, range(int(blocks))), strict=True)))
        else:
            numbers, kinds = tf.range(blocks), tuple(dtypes)
            results = tf.map_fn(block, numbers, parallel_iterations=1, fn_output_signature=kinds)
        return tuple(tf.reshape(x, [blocks * each, *x.shape[2:]])[:count] for x in results)

    return tf.cond(blocks <= 1, whole, looped)  # in a graph both are traced, the first one first

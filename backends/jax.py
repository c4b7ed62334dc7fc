"""The operations in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcld_core.backends.protocol import Arrays, KeptRows, RowFunction

Array = Any
name = "jax"
checks_devices = False  # JAX itself refuses operands that are committed to different devices
least_rows = 128


def is_tensor(x: Any) -> bool:
    return isinstance(x, jax.Array)


def is_trained(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


def asarray(x: Any, like: Array | None = None) -> Array:
    if isinstance(x, jax.Array):
        return x
    if isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind in "iu":
        _check_width(x)
    return jnp.asarray(x)


def _check_width(x: Any) -> None:
    """Raise ValueError for a number that JAX would wrap: without 64 bits it drops the upper 32."""
    if jax.config.jax_enable_x64 or x.itemsize <= 4 or x.size == 0:
        return
    limits, lowest, highest = np.iinfo("int32"), x.min(), x.max()
    if lowest < limits.min or highest > limits.max:
        raise ValueError(
            f"JAX has integers of 32 bits here; got {lowest} … {highest}. Number them anew, or "
            "have JAX use 64 bits (jax_enable_x64)"
        )


def astype(x: Array, dtype: str) -> Array:
    return x.astype(dtype)


def dtype(x: Array) -> str:
    return str(x.dtype)


def size(x: Array, axis: int) -> Any:
    return x.shape[axis]


def host_values(x: Array) -> np.ndarray[Any, Any] | None:
    if isinstance(x, jax.core.Tracer) or not x.is_fully_addressable:
        return None
    return np.asarray(x) if {device.platform for device in x.devices()} == {"cpu"} else None


exp = jnp.exp
expm1 = jnp.expm1
tanh = jnp.tanh
log = jnp.log
sqrt = jnp.sqrt
abs = jnp.abs
log_sigmoid = jax.nn.log_sigmoid
maximum = at_least = jnp.maximum
minimum = jnp.minimum
isfinite = jnp.isfinite
matrix_transpose = jnp.transpose
where = jnp.where
sum = jnp.sum
max = jnp.max
all = jnp.all
concat = jnp.concatenate
reshape = jnp.reshape
take_along_axis = jnp.take_along_axis
logsumexp = jax.nn.logsumexp
log_softmax = jax.nn.log_softmax
stop_gradient = jax.lax.stop_gradient


def softmax(x: Array, axis: int, out: Array | None = None) -> Array:
    return jax.nn.softmax(x, axis)


def matmul(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision="highest")


def argmax(x: Array, axis: int) -> Array:
    return jnp.argmax(x, axis=axis).astype("int32")


def cumulative_sum(x: Array) -> Array:
    return jnp.cumsum(x, dtype=x.dtype)


def arange(n: int, like: Array) -> Array:
    return jnp.arange(n, dtype="int32")


def take(x: Array, indices: Array) -> Array:
    return jnp.take(x, indices, axis=0)


def put(x: Array, indices: Array, values: Array) -> Array:
    return x.at[indices].set(values)


def put_along_axis(x: Array, indices: Array, values: Any) -> Array:
    if indices.shape[1] == 1:  # a comparison fuses with what is around it, a scatter does not
        return jnp.where(jnp.arange(x.shape[1], dtype=indices.dtype)[None, :] == indices, values, x)
    return x.at[arange(x.shape[0], x)[:, None], indices].set(values)


def add_along_axis(x: Array, indices: Array, values: Array) -> Array:
    return x.at[arange(x.shape[0], x)[:, None], indices].add(values)


def by_block(
    function: RowFunction, prepare: Any, rows: Arrays, shared: Any, block_rows: int | None
) -> Arrays:
    count = rows[0].shape[0]  # a symbol in an export with a symbolic batch
    if block_rows is None or not isinstance(count, int) or count <= block_rows:
        return function(rows, prepare(shared))
    leaves, structure = jax.tree.flatten(shared)

    def ready(arrays: list[Array]) -> Any:
        given = iter(arrays)  # Python numbers stay what they are: a factor of 1 costs nothing
        filled = [next(given) if is_tensor(leaf) else leaf for leaf in leaves]
        return prepare(jax.tree.unflatten(structure, filled))

    @jax.custom_vjp
    def evaluate(student: Array, others: Arrays, arrays: list[Array]) -> Any:
        shared = ready(arrays)
        return _scanned(lambda block: function(block, shared), (student, *others), block_rows)

    def forward(student: Array, others: Arrays, arrays: list[Array]) -> Any:
        shared = ready(arrays)

        def with_gradient(block: Arrays) -> Arrays:
            def total_first(student: Array) -> tuple[Array, Arrays]:
                total, *results = function((student, *block[1:]), shared)
                return total, tuple(results)

            total, pull_back, results = jax.vjp(total_first, block[0], has_aux=True)
            return (total, *results, *pull_back(jnp.ones_like(total)))

        # the slope of half precision too
        wide = "float64" if student.dtype == "float64" else "float32"
        values = _scanned(with_gradient, (student.astype(wide), *others), block_rows)
        return values[:-1], values[-1]

    def backward(slope: Array, cotangents: Arrays) -> Any:
        return (cotangents[0][:, None] * slope).astype(rows[0].dtype), None, None

    evaluate.defvjp(forward, backward)
    return evaluate(rows[0], rows[1:], [leaf for leaf in leaves if is_tensor(leaf)])


def value_and_slopes(function: Callable[..., Array], arrays: Arrays) -> Any:
    value, pull_back = jax.vjp(function, *arrays)
    return value, pull_back(jnp.ones_like(value))


def by_kept_block(loss: Any, rows: KeptRows, sizes: tuple[int, int]) -> Array:
    count = rows.x.shape[0]
    if not isinstance(count, int) or count == 0 or (rows.layer and rows.scale is None):
        return loss.whole(rows)
    size = min(sizes[0] if rows.layer or rows.shared else sizes[1], count)
    summed = rows.scale is not None

    def forward(trained: Arrays, given: KeptRows, differentiate: bool = True) -> Any:
        given = given._replace(x=trained[0], layer=trained[1:])
        values, *slopes = _kept_blocks(loss, given, size, differentiate)
        return given.scale * jnp.sum(values) if summed else values, tuple(slopes)

    @jax.custom_vjp
    def evaluate(trained: Arrays, given: KeptRows) -> Array:
        return forward(trained, given, False)[0]

    def backward(slopes: Arrays, cotangent: Array) -> Any:
        factor = cotangent if summed else cotangent[:, None]
        pairs = zip(slopes, (rows.x, *rows.layer), strict=True)
        return tuple((factor.astype(y.dtype) * y).astype(x.dtype) for y, x in pairs), None

    evaluate.defvjp(forward, backward)
    # over a mesh the layer varies as x does: JAX then sums its slopes
    layer = (y + jnp.sum(rows.x[:0], dtype=y.dtype) for y in rows.layer)
    return evaluate((rows.x, *layer), rows._replace(x=None, layer=()))


def _kept_blocks(loss: Any, rows: KeptRows, size: int, differentiate: bool) -> Arrays:
    """Return weighted values a row, and the slopes of x, weight and bias of their scaled sum.

    The rows that count are sorted to the front; the loop ends after the last of them. The last
    block is a whole one, of rows that the one before may have had.
    """
    x, layer, count = rows.x, rows.layer, rows.x.shape[0]
    wide = "float64" if x.dtype == "float64" else "float32"
    narrow = wide if x.dtype == "float16" else x.dtype
    scale = 1.0 if rows.scale is None else rows.scale
    order, blocks = None, -(-count // size)
    if rows.kept is not None:
        order = jnp.argsort(~rows.kept, stable=True).astype("int32")
        blocks = -(-jnp.sum(rows.kept.astype("int32")) // size)

    def step(i: Array, arrays: Arrays) -> Arrays:
        start = jnp.minimum(i * size, count - size)

        def pick(y: Array) -> Array:
            if order is None:
                return jax.lax.dynamic_slice_in_dim(y, start, size)
            return y[jax.lax.dynamic_slice_in_dim(order, start, size)]

        def put(y: Array, part: Array) -> Array:
            if order is None:
                return jax.lax.dynamic_update_slice_in_dim(y, part.astype(y.dtype), start, 0)
            places = jax.lax.dynamic_slice_in_dim(order, start, size)
            return y.at[places].set(part.astype(y.dtype), unique_indices=True)

        block = pick(x)
        z = _product(block, *layer).astype(wide) if layer else block.astype(wide)
        beside = loss.prepare(tuple(map(pick, rows.beside)), rows.shared)
        factor = jnp.ones(size, wide) if rows.weight is None else pick(rows.weight)
        counts = jnp.ones(size, bool) if order is None else pick(rows.kept)
        if not differentiate:
            found = loss.values(z, beside)
            return (put(arrays[0], jnp.where(counts, factor * found, 0.0)),)
        found, slope = loss.with_slope(z, beside)
        values = put(arrays[0], jnp.where(counts, factor * found, 0.0))
        factor = factor if layer else factor * scale  # half precision keeps no mean's slope
        slope = jnp.where(counts[:, None], slope * factor[:, None], 0.0)
        if not layer:
            return values, put(arrays[1], slope)
        slope = slope.astype(x.dtype)
        part = jnp.matmul(slope, layer[0].astype(x.dtype), precision="highest")
        of_x = put(arrays[1], scale * part.astype(narrow))
        slope = jnp.where((jnp.arange(size) + start >= i * size)[:, None], slope, 0)
        block = jnp.where(counts[:, None], block, 0)  # 0 · NaN of a row that does not count
        parts = jnp.matmul(slope.T, block, precision="highest"), jnp.sum(slope, 0, dtype=wide)
        sums = (y + scale * part.astype(wide) for y, part in zip(arrays[2:], parts, strict=False))
        return values, of_x, *sums

    none = jnp.sum(x[:0], dtype=wide)  # 0, which varies over a mesh as x does
    values, *sums = (none + jnp.zeros(n, wide) for n in (count, *(y.shape for y in layer)))
    of_x = jnp.zeros(x.shape, narrow) + none.astype(narrow)
    arrays = (values, of_x, *sums) if differentiate else (values,)
    return jax.lax.fori_loop(0, blocks, step, arrays)


def _product(x: Array, weight: Array, bias: Array | None = None) -> Array:
    z = jnp.matmul(x, weight.astype(x.dtype).T, precision="highest")
    return z if bias is None else z + bias.astype(x.dtype)[None, :]


def _scanned(function: Callable[[Arrays], Arrays], rows: Arrays, block_rows: int) -> Arrays:
    """Scan over blocks of one size, the rows padded with zeros that are cut off again."""
    count = rows[0].shape[0]
    blocks = -(-count // block_rows)
    size = -(-count // blocks)
    padded = (jnp.pad(x, [(0, blocks * size - count), *[(0, 0)] * (x.ndim - 1)]) for x in rows)
    results = jax.lax.map(function, tuple(x.reshape(blocks, size, *x.shape[1:]) for x in padded))
    return tuple(x.reshape(blocks * size, *x.shape[2:])[:count] for x in results)

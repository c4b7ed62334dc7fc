"""The operations in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcld_core.backends.protocol import (
    Arrays,
    RowFunction,
    SharedFunction,
    layer_by_block_twice,
)

Array = Any
name = "jax"
least_rows = 128

_GATHERED = 2**25
"""Up to so many entries are gathered at once for a product with a sparse matrix."""


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


def device(x: Array) -> str | None:
    return None  # JAX itself refuses operands that are committed to different devices


def host_values(x: Array) -> np.ndarray[Any, Any] | None:
    if isinstance(x, jax.core.Tracer) or not x.is_fully_addressable:
        return None
    return np.asarray(x) if {device.platform for device in x.devices()} == {"cpu"} else None


exp = jnp.exp
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
sort = jnp.sort
concat = jnp.concatenate
reshape = jnp.reshape
take_along_axis = jnp.take_along_axis
logsumexp = jax.nn.logsumexp
softmax = jax.nn.softmax
log_softmax = jax.nn.log_softmax
stop_gradient = jax.lax.stop_gradient


def matmul(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision="highest")


def add_scaled(x: Array, y: Array, factor: float) -> Array:
    return x + factor * y


def argmax(x: Array, axis: int) -> Array:
    return jnp.argmax(x, axis=axis).astype("int32")


def cumulative_sum(x: Array) -> Array:
    return jnp.cumsum(x, dtype=x.dtype)


def searchsorted(x: Array, values: Array) -> Array:
    if not isinstance(x.shape[0], int):  # JAX 0.10 needs it where a batch is symbolic
        return jnp.sum(x[:, None] < values[None, :], 0).astype("int32")
    return jnp.searchsorted(x, values).astype("int32")


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


def sparse(values: Array, indices: Array, columns: int) -> Any:
    return values, indices


def sparse_matmul(x: Array, y: Any) -> Array:
    values, indices = y
    count, k = values.shape
    pieces = -(-count * k * x.shape[0] // _GATHERED)
    if pieces > 1:
        return _sparse_matmul(x, values, indices, -(-count // pieces))
    return jnp.sum(values[:, :, None] * jnp.take(x.T, indices, axis=0), 1).T


def _sparse_matmul(x: Array, values: Array, indices: Array, rows: int) -> Array:
    """Return the product by pieces of the sparse rows, whose gradient is summed in one array."""

    @jax.custom_vjp
    def product(x: Array, values: Array, indices: Array) -> Array:
        def gathered(piece: Arrays) -> tuple[Array]:
            return (jnp.sum(piece[0][:, :, None] * jnp.take(x.T, piece[1], axis=0), 1),)

        return _scanned(gathered, (values, indices), rows)[0].T

    def forward(x: Array, values: Array, indices: Array) -> Any:
        return product(x, values, indices), (x.T, values, indices)

    def backward(saved: Arrays, cotangent: Array) -> Any:
        columns, *entries = saved

        def add(total: Array, piece: Arrays) -> tuple[Array, Array]:
            part, places, slope = piece
            of_values = jnp.sum(columns[places] * slope[:, None, :], 2)
            return total.at[places].add(part[:, :, None] * slope[:, None, :]), of_values

        nothing = jnp.zeros_like(columns, cotangent.dtype)
        of_x, of_values = jax.lax.scan(add, nothing, _split((*entries, cotangent.T), rows))
        of_values = jnp.reshape(of_values, (-1, values.shape[1]))[: values.shape[0]]
        return of_x.T, of_values, None

    product.defvjp(forward, backward)
    return product(x, values, indices)


def by_block(
    function: RowFunction, prepare: Any, rows: Arrays, shared: Any, block_rows: int | None
) -> Arrays:
    if _is_plain(rows, block_rows):
        return function(rows, prepare(shared))
    leaves, structure = jax.tree.flatten(shared)
    traced = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

    def ready(arrays: list[Array]) -> Any:
        # Python numbers stay what they are: a weight of 0 skips its term
        filled = list(leaves)
        for i, array in zip(traced, arrays, strict=True):
            filled[i] = array
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
    return evaluate(rows[0], rows[1:], [leaves[i] for i in traced])


def _is_plain(rows: Arrays, block_rows: int | None) -> bool:
    """Whether all rows are evaluated at once; so are those of an export with a symbolic batch."""
    count = rows[0].shape[0]
    return block_rows is None or not isinstance(count, int) or count <= block_rows


def by_block_twice(
    function: SharedFunction, rows: Arrays, trained: Arrays, block_rows: int | None
) -> Arrays:
    if _is_plain(rows, block_rows):
        return function(rows, trained)
    # a scan adds up gradients of what it closes over in its dtype
    wide = tuple(x if x.dtype == "float64" else x.astype("float32") for x in trained)

    def narrowed(block: Arrays) -> Arrays:
        return function(block, tuple(w.astype(x.dtype) for w, x in zip(wide, trained, strict=True)))

    # in a loop nothing can be merged with the first evaluation
    return _scanned(jax.checkpoint(narrowed, prevent_cse=False), rows, block_rows)


layer_by_block = layer_by_block_twice(by_block_twice)


def _scanned(function: Callable[[Arrays], Arrays], rows: Arrays, block_rows: int) -> Arrays:
    """Scan over blocks of one size, the rows padded with zeros that are cut off again."""
    results = jax.lax.map(function, _split(rows, block_rows))
    count = rows[0].shape[0]
    return tuple(x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])[:count] for x in results)


def _split(rows: Arrays, block_rows: int) -> Arrays:
    """Return (blocks, size, …) of at most ``block_rows``, padded with zeros."""
    count = rows[0].shape[0]
    blocks = -(-count // block_rows)
    size = -(-count // blocks)
    padding = (0, blocks * size - count)
    padded = (jnp.pad(x, [padding] + [(0, 0)] * (x.ndim - 1)) for x in rows)
    return tuple(x.reshape(blocks, size, *x.shape[1:]) for x in padded)

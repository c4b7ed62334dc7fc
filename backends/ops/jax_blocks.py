"""Rows in JAX: the gradient formed in the forward pass, by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mcld_core.backends.ops.protocol import RowFunction

Array = Any


def map_rows(
    function: RowFunction,
    prepare: Callable[[Any], Any],
    rows: tuple[Array, ...],
    shared: Any,
    block_rows: int | None,
) -> tuple[Array, ...]:
    """Evaluate a function of rows: see `mcld_core.backends.ops.protocol.Backend.map_rows`.

    Reverse mode works in any order (JAX differentiates the rules of a ``custom_vjp``); forward
    mode needs the plain form, ``block_size=None``.
    """
    if block_rows is None:
        return function(rows, prepare(shared), False)
    leaves, structure = jax.tree.flatten(shared)
    is_array = [isinstance(leaf, jax.Array) for leaf in leaves]
    arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]

    def by_block(rows: tuple[Array, ...], arrays: list[Array], gradient: bool) -> tuple[Array, ...]:
        # Python numbers stay what they are: a weight of 0 skips its term
        left = iter(arrays)
        filled = [
            next(left) if array else leaf for leaf, array in zip(leaves, is_array, strict=True)
        ]
        ready = prepare(jax.tree.unflatten(structure, filled))
        return _by_block(lambda block: function(block, ready, gradient), rows, block_rows)

    @jax.custom_vjp
    def evaluate(student: Array, others: tuple[Array, ...], arrays: list[Array]) -> Any:
        return by_block((student, *others), arrays, False)

    def forward(student: Array, others: tuple[Array, ...], arrays: list[Array]) -> Any:
        *results, slope = by_block((student, *others), arrays, True)
        return tuple(results), slope

    def backward(slope: Array, cotangents: tuple[Array, ...]) -> Any:
        gradient = cotangents[0][:, None] * slope
        return gradient.astype(rows[0].dtype), None, None

    evaluate.defvjp(forward, backward)
    return evaluate(rows[0], rows[1:], arrays)


def _by_block(
    function: Callable[[tuple[Array, ...]], tuple[Array, ...]],
    rows: tuple[Array, ...],
    block_rows: int,
) -> tuple[Array, ...]:
    """Scan over blocks of one size, the rows padded with zeros that are cut off again."""
    count = rows[0].shape[0]
    if count <= block_rows:
        return function(rows)
    blocks = -(-count // block_rows)
    size = -(-count // blocks)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, blocks * size - count)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(blocks, size, *x.shape[1:])

    results = jax.lax.map(function, tuple(split(x) for x in rows))
    return tuple(x.reshape(blocks * size, *x.shape[2:])[:count] for x in results)

"""Rows in TensorFlow: the gradient formed in the forward pass, by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mcld_core.backends.ops.protocol import RowFunction

Array = Any


def map_rows(
    function: RowFunction,
    prepare: Callable[[Any], Any],
    rows: tuple[Array, ...],
    shared: Any,
    block_rows: Any,
) -> tuple[Array, ...]:
    """Evaluate a function of rows: see `mcld_core.backends.ops.protocol.Backend.map_rows`."""

    def plain(student: Array) -> tuple[Array, ...]:
        return function((student, *rows[1:]), prepare(shared), False)

    if block_rows is None:
        return plain(rows[0])

    @tf.custom_gradient
    def evaluate(student: Array) -> Any:
        ready = prepare(shared)
        *results, slope = _by_block(
            lambda block: function(block, ready, True), (student, *rows[1:]), block_rows
        )

        def gradient(cotangent: Array, *_: Any) -> Array:
            return _first_derivative(lambda x: plain(x)[0], student, cotangent, slope)

        return tuple(results), gradient

    return evaluate(rows[0])


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


def _by_block(
    function: Callable[[tuple[Array, ...]], tuple[Array, ...]],
    rows: tuple[Array, ...],
    block_rows: Any,
) -> tuple[Array, ...]:
    """Loop over blocks of one size, the rows padded with zeros that are cut off again.

    XLA needs every block to have the same shape: a ragged last slice gives wrong rows there.
    """
    count = rows[0].shape[0]
    if count is not None and isinstance(block_rows, int) and count <= block_rows:
        return function(rows)
    if count is None:
        count = tf.shape(rows[0])[0]
    blocks = tf.maximum(-(-count // block_rows), 1)
    size = -(-count // blocks)

    def split(x: Array) -> Array:
        padding = tf.concat([[blocks * size - count], tf.zeros([x.shape.rank - 1], tf.int32)], 0)
        padded = tf.pad(x, tf.stack([tf.zeros_like(padding), padding], 1))
        return tf.reshape(padded, [blocks, size, *x.shape[1:]])

    blocked = tuple(split(x) for x in rows)
    signature = tf.nest.map_structure(
        lambda x: tf.TensorSpec(x.shape, x.dtype), function(tuple(x[0] for x in blocked))
    )
    results = tf.map_fn(function, blocked, parallel_iterations=1, fn_output_signature=signature)
    return tuple(tf.reshape(x, [blocks * size, *x.shape[2:]])[:count] for x in results)

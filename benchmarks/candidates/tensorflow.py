"""Candidates in TensorFlow: value and gradient of one loss in a graph, with unknown batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from benchmarks.measure import LIMIT, Shape
from mcld_core import MCLDConfig, TeacherKeys, instance_wise, kd_loss, mcld_loss

PACKAGES = ["tensorflow", "keras"]


def inputs(shape: Shape) -> tuple[Any, Any, Any]:
    """Return the student's logits, and logits and labels of all keys, the batch's first."""
    batch, keys, classes = shape
    logits = 4 * tf.random.normal([keys, classes], seed=1)
    labels = tf.random.uniform([keys], 0, classes, tf.int32, seed=2)
    return tf.random.normal([batch, classes], seed=0), logits, labels


def limit(student: Any, ready: Any) -> Callable[[], Any]:
    """Return a call of what no contrast can do without."""

    @tf.function
    def product(student: Any, ready: Any) -> Any:
        return tf.exp(tf.matmul(student, ready, transpose_b=True)) @ ready

    return lambda: product(student, ready).numpy()


def trained(
    own: tuple[Any, Any, Any],
    loss: Callable[..., Any],
    jit: bool | None = None,
    batch_size: int | None = None,
) -> Callable[[], Any]:
    """Return a call of a loss's value and gradient, in a graph."""
    shapes = ([batch_size, *x.shape[1:]] for x in own)
    signature = [tf.TensorSpec(shape, x.dtype) for shape, x in zip(shapes, own, strict=True)]

    @tf.function(input_signature=signature, jit_compile=jit, autograph=False)
    def step(student: Any, teacher: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = loss(student, teacher, labels)
        return value, tape.gradient(value, student)

    return lambda: step(*own)[1].numpy()


def by_library(shape: Shape, libraries: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return value and gradient of each library's loss in a graph, and the limit."""
    student, logits, labels = inputs(shape)
    own, calls = (logits[: shape.batch], labels[: shape.batch]), {}
    for name, library in libraries.items():
        keys = None if shape.keys == shape.batch else library.TeacherKeys(logits, labels)
        calls[name] = trained((student, *own), partial(library.mcld_loss, keys=keys))
    return {LIMIT: limit(student, tf.nn.softmax(logits)), **calls}


def candidates(shape: Shape, device: str, threads: int, compiled: bool = True) -> dict[str, Any]:
    """Return name → call; each call ends when its gradient is there."""
    import os

    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras

    batch, keys, _ = shape
    student, all_logits, all_labels = inputs(shape)
    teacher, labels = all_logits[:batch], all_labels[:batch]
    more = None if keys == batch else TeacherKeys(all_logits, all_labels)
    graph = partial(trained, (student, teacher, labels))
    plain = MCLDConfig(block_size=None)
    peer = keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence(), temperature=4.0)
    return {
        LIMIT: limit(student, tf.nn.softmax(all_logits)),
        "mcld_loss": graph(lambda s, t, y: mcld_loss(s, t, y, keys=more)),
        "mcld_loss, known batch": graph(
            lambda s, t, y: mcld_loss(s, t, y, keys=more), batch_size=batch
        ),
        "mcld_loss, XLA": graph(lambda s, t, y: mcld_loss(s, t, y, keys=more), jit=True),
        "mcld_loss, plain form": graph(lambda s, t, y: mcld_loss(s, t, y, keys=more, config=plain)),
        "instance_wise": graph(lambda s, t, y: instance_wise(s, t, y, keys=more)),
        "kd_loss": graph(lambda s, t, y: kd_loss(s, t)),
        "keras LogitsDistillation (KLDivergence)": graph(lambda s, t, y: peer.compute_loss(t, s)),
    }

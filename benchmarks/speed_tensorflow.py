"""Candidates in TensorFlow: value and gradient of one loss in a graph, with unknown batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from benchmarks.measure import LIMIT, Shape
from mcld_core import MCLDConfig, TeacherKeys, instance_wise, kd_loss, mcld_loss

PACKAGES = ["tensorflow", "keras"]


def candidates(shape: Shape, device: str, threads: int, compiled: bool = True) -> dict[str, Any]:
    """Return name → call; each call ends when its gradient is there."""
    import os

    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras

    batch, keys, classes = shape
    student = tf.random.normal([batch, classes], seed=0)
    teacher = 4 * tf.random.normal([batch, classes], seed=1)
    labels = tf.random.uniform([batch], 0, classes, tf.int32, seed=2)
    all_logits, all_labels = teacher, labels
    more = None
    if keys != batch:
        extra = 4 * tf.random.normal([keys - batch, classes], seed=3)
        all_logits = tf.concat([teacher, extra], 0)
        new = tf.random.uniform([keys - batch], 0, classes, tf.int32, seed=4)
        all_labels = tf.concat([labels, new], 0)
        more = TeacherKeys(all_logits, all_labels)
    ready = tf.nn.softmax(all_logits)

    def graph(
        loss: Callable[..., Any], jit: bool | None = None, batch_size: int | None = None
    ) -> Callable[[], Any]:
        @tf.function(
            input_signature=[
                tf.TensorSpec([batch_size, classes], tf.float32),
                tf.TensorSpec([batch_size, classes], tf.float32),
                tf.TensorSpec([batch_size], tf.int32),
            ],
            jit_compile=jit,
        )
        def step(student: Any, teacher: Any, labels: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(student)
                value = loss(student, teacher, labels)
            return value, tape.gradient(value, student)

        return lambda: step(student, teacher, labels)[1].numpy()

    @tf.function
    def limit(student: Any, ready: Any) -> Any:
        return tf.exp(tf.matmul(student, ready, transpose_b=True)) @ ready

    plain = MCLDConfig(block_size=None)
    peer = keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence(), temperature=4.0)
    return {
        LIMIT: lambda: limit(student, ready).numpy(),
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

"""Train with a bank, save each step, and die without warning where asked to.

Run by test_resume.py: ``python -m tests.tensorflow.resume_worker FOLDER STEPS
[KILL_AFTER]``.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from typing import Any

import tensorflow as tf

from mcld_core import TeacherBank, mcld_loss


def train(folder: str, steps: int, kill_after: int | None = None) -> list[str]:
    """Train on from the last checkpoint in the folder; return the losses, exactly."""
    weights = tf.Variable(tf.zeros([6, 4]))
    optimizer = tf.keras.optimizers.Adam(1e-2)
    optimizer.build([weights])
    empty = TeacherBank.empty(capacity=20, classes=4, like=tf.zeros([], "bfloat16"))
    bank = TeacherBank(*map(tf.Variable, empty))

    @partial(tf.function, autograph=False)  # tracing is half as long
    def step(number: Any) -> Any:
        inputs = tf.random.stateless_normal([8, 6], seed=[0, number])
        teacher = inputs @ tf.random.stateless_normal([6, 4], seed=[1, 0])
        labels = tf.argmax(teacher, 1)
        keys = bank.keys(teacher, labels)
        with tf.GradientTape() as tape:
            loss = mcld_loss(inputs @ weights, teacher, labels, keys=keys)
        optimizer.apply([tape.gradient(loss, weights)])
        for variable, value in zip(bank, bank.push(teacher, labels), strict=True):
            variable.assign(value)
        return loss

    checkpoint = tf.train.Checkpoint(weights=weights, optimizer=optimizer, bank=bank)
    manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=1)
    if manager.restore_or_initialize() is not None:
        checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    losses = []
    for number in range(int(optimizer.iterations), steps):
        losses.append(float(step(tf.constant(number))).hex())
        manager.save()
        if number + 1 == kill_after:
            print(*losses, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    return losses


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print(*train(sys.argv[1], *map(int, sys.argv[2:])))

"""Two replicas of TensorFlow train what one device trains on the joined batches."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mcld_core import MCLDConfig
from mcld_core.keras import MCLDDistiller
from tests.keras.models import data, dense, numpy
from tests.tolerance import assert_value

M = 100.0


def train(strategy: Any, **settings: Any) -> tuple[dict[str, list[float]], MCLDDistiller]:
    """Two epochs with a last batch that splits unevenly, and one replica's rows ignored."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        distiller = MCLDDistiller(
            dense(16), dense(3, regularizer="l2"), total_steps=4, **settings
        )  # fmt: skip
        distiller.compile(keras.optimizers.SGD(0.05))
    x, y = data(11)
    y[:4] = -100  # all rows of the first replica's first batch
    weight = np.linspace(0.5, 2.0, 11).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(8)
    history = distiller.fit(batches, epochs=2, verbose=0, shuffle=False).history
    return history, distiller


MEANS = {"class_means": True, "config": MCLDConfig(category_contrast="prototypes")}


@pytest.mark.parametrize("settings", [{}, {"bank_size": 10}, MEANS], ids=["batch", "bank", "means"])
def test_replicas_equal_one_device(settings: dict[str, Any]) -> None:
    history, one = train(tf.distribute.get_strategy(), **settings)
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert mirrored.num_replicas_in_sync == 2
    history_of_two, two = train(mirrored, **settings)
    for name in ("total_loss", "distillation_loss"):  # Keras weights "loss" by the replica's rows
        for ours, theirs in zip(history_of_two[name], history[name], strict=True):
            assert_value(ours, theirs, "float32", M)
    for ours, theirs in zip(two.student.get_weights(), one.student.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert int(numpy(two.steps_done)) == 4
    if "class_means" in settings:
        for ours, theirs in zip(two.class_means.value, one.class_means.value, strict=True):
            np.testing.assert_allclose(numpy(ours), numpy(theirs), rtol=1e-5, atol=1e-6)
    if "bank_size" in settings:
        for ours, theirs in zip(two.bank.value, one.bank.value, strict=True):
            np.testing.assert_allclose(numpy(ours), numpy(theirs), rtol=1e-6)

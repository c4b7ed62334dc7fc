"""EMATeacher on each of Keras' backends."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mcld_core.backends.keras.ema import EMATeacher


def student() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((3,)), *layers])


def test_weights_are_averaged_and_statistics_copied() -> None:
    model = student()
    teacher = EMATeacher(model, decay=0.75, warm_up=False)
    start = model.get_weights()
    for _ in range(2):
        model.set_weights([weight + 1.0 for weight in model.get_weights()])
        teacher.update()
    moved = {id(weight): 0.75 * 0.25 + 0.25 * 2.0 for weight in model.trainable_weights}
    for weight, before, average in zip(
        model.weights, start, teacher.model_average.get_weights(), strict=True
    ):
        np.testing.assert_allclose(average, before + moved.get(id(weight), 2.0), rtol=1e-6)


def test_it_follows_fit() -> None:
    model = student()
    teacher = EMATeacher(model)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    model.fit(x, np.ones((8, 2), "float32"), batch_size=4, verbose=0, callbacks=[teacher])
    assert teacher.updates == 2
    student_kernel, average = model.get_weights()[0], teacher.model_average.get_weights()[0]
    assert 0 < np.abs(average - student_kernel).max() < 0.1
    assert not teacher.model_average.trainable_weights


def test_errors_say_what_came() -> None:
    with pytest.raises(ValueError, match=r"decay needs a number in 0 … 1; got 2"):
        EMATeacher(student(), decay=2)
    with pytest.raises(ValueError, match="the same weights; got 2 and 8 arrays"):
        EMATeacher(student(), keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))

"""EMATeacher on each of Keras' backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mcld_core import MCLDConfig
from mcld_core.extensions.teachers import ema_decay
from mcld_core.keras import MCLDDistiller
from mcld_core.keras.ema import EMATeacher
from tests.keras.models import data, dense, logits, numpy, reference, with_batch_norm
from tests.tolerance import assert_value


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


def test_a_given_average_keeps_its_weights() -> None:
    model, average = student(), student()
    average.set_weights([weight + 1.0 for weight in model.get_weights()])
    expected = average.get_weights()
    teacher = EMATeacher(model, average)
    assert teacher.model_average is average
    for found, weight in zip(average.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, weight)


def distiller(statistics: bool = True) -> tuple[MCLDDistiller, EMATeacher]:
    """A student that its own average teaches."""
    keras.utils.set_random_seed(0)
    model = with_batch_norm() if statistics else dense(3)
    teacher = EMATeacher(model, decay=0.9)
    made = MCLDDistiller(teacher.model_average, model, MCLDConfig(weight_ce=1.0))
    made.compile(keras.optimizers.Adam(0.05))
    return made, teacher


def fit(model: MCLDDistiller, callbacks: list[Any], seed: int) -> None:
    x, y = data(12, seed=seed)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=callbacks)


def assert_same_weights(ours: keras.Model, theirs: keras.Model) -> None:
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b), err_msg=a.path)


def test_a_training_that_its_own_average_teaches_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model, teacher = distiller()
    fit(model, [teacher], seed=0)
    model.save(tmp_path / "distiller.keras")
    np.savez(tmp_path / "ema.npz", **teacher.state())
    fit(model, [teacher], seed=1)

    again = keras.models.load_model(tmp_path / "distiller.keras")
    resumed = EMATeacher(again.student, again.teacher, decay=0.9)
    resumed.load_state(np.load(tmp_path / "ema.npz"))
    fit(again, [resumed], seed=1)
    assert resumed.updates == teacher.updates == 6
    assert_same_weights(again, model)


def test_the_state_alone_restores_average_and_count() -> None:
    model, teacher = distiller()
    fit(model, [teacher], seed=0)
    other = EMATeacher(model.student, decay=0.9)
    other.load_state(teacher.state())
    for one in (teacher, other):
        one.update()
    assert_same_weights(other.model_average, teacher.model_average)


def test_each_step_of_fit_learns_from_the_average_so_far() -> None:
    """The same as steps by hand, whose losses are the reference's of the average's logits."""
    model, teacher = distiller(statistics=False)
    fit(model, [teacher], seed=0)
    by_hand, average = distiller(statistics=False)
    x, y = data(12, seed=0)
    config = MCLDConfig(weight_ce=1.0)
    for start in (0, 4, 8):
        batch, labels = x[start : start + 4], y[start : start + 4]
        s = logits(by_hand.student, batch)
        expected = reference(s, logits(average.model_average, batch), labels, config=config)
        fixed = reference(
            s, logits(distiller(statistics=False)[0].teacher, batch), labels, config=config
        )
        assert start == 0 or abs(fixed - expected) > 1e-3
        found = by_hand.train_on_batch(batch, labels, return_dict=True)
        by_hand.reset_metrics()
        assert_value(found["distillation_loss"], expected, "float32", 100.0)
        average.update()
    assert_same_weights(model, by_hand)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_are_averaged_in_float32(dtype: str) -> None:
    def made() -> keras.Model:
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype=dtype)])

    model = made()
    model.set_weights([np.ones((3, 2)), np.zeros(2)])
    teacher = EMATeacher(model, warm_up=False)
    model.set_weights([np.full((3, 2), 1.125), np.zeros(2)])
    for _ in range(100):
        teacher.update()
    expected = 1.125 - 0.125 * 0.999**100
    state = teacher.state()
    np.testing.assert_allclose(state["0"], np.full((3, 2), expected), rtol=1e-5)
    found = numpy(keras.ops.cast(teacher.model_average.weights[0], "float32"))
    rounded = numpy(keras.ops.cast(keras.ops.cast(expected, dtype), "float32"))
    np.testing.assert_array_equal(found, np.broadcast_to(rounded, (3, 2)))
    other = EMATeacher(made(), warm_up=False)
    other.load_state(state)
    np.testing.assert_array_equal(other.state()["0"], state["0"])


def test_the_decay_goes_by_the_count_of_an_optimizer() -> None:
    model, _ = distiller()
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(90)
    decay = ema_decay(model.optimizer.iterations.value, 0.99)
    np.testing.assert_allclose(numpy(decay), 0.91, rtol=1e-6)


def test_errors_say_what_came() -> None:
    with pytest.raises(ValueError, match=r"decay needs a number in 0 … 1; got 2"):
        EMATeacher(student(), decay=2)
    with pytest.raises(ValueError, match="the same weights; got 2 and 8 arrays of shapes"):
        EMATeacher(student(), keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    teacher = EMATeacher(student())
    with pytest.raises(ValueError, match=r"'updates' and 8 arrays of .*; got 8 entries"):
        teacher.load_state({k: v for k, v in teacher.state().items() if k != "7"})

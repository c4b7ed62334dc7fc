"""Save, load, continue: the losses are bit-equal to those of a training that never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mcld_core import ClassMeans, MCLDConfig, TeacherBank, TeacherKeys, mcld_loss
from mcld_core.keras import MCLDDistiller
from tests.keras.models import CLASSES, data, dense, logits, numpy, reference
from tests.tolerance import assert_value

STEPS = 6


def distiller(soft: bool) -> MCLDDistiller:
    """A distiller whose bank wraps around within a few steps."""
    made = MCLDDistiller(
        dense(16), dense(3), MCLDConfig(weight_sample=0.5), total_steps=STEPS, bank_size=10,
        soft_labels=soft,
    )  # fmt: skip
    made.compile(keras.optimizers.Adam(0.05))
    return made


def train(model: MCLDDistiller, first: int, last: int, soft: bool) -> list[float]:
    """Steps first … last, each on its own batch of 4."""
    losses = []
    for step in range(first, last):
        x, y = data(4, seed=step)
        y = np.eye(CLASSES, dtype="float32")[y] if soft else y
        losses.append(float(model.train_on_batch(x, y, return_dict=True)["loss"]))
        model.reset_metrics()
    return losses


def settings(model: MCLDDistiller) -> dict[str, Any]:
    """The configuration without the two models, of which Keras writes down more when loaded."""
    config = model.get_config()
    assert {"teacher", "student"} < set(config)
    return {name: value for name, value in config.items() if name not in ("teacher", "student")}


@pytest.mark.parametrize("soft", [False, True], ids=["int", "one-hot"])
def test_a_loaded_distiller_goes_on_bit_for_bit(tmp_path: Path, soft: bool) -> None:
    model = distiller(soft)
    train(model, 0, 3, soft)
    path = tmp_path / "distiller.keras"
    model.save(path)
    expected = train(model, 3, STEPS, soft)

    again = keras.models.load_model(path)
    assert isinstance(again, MCLDDistiller)
    assert settings(again) == settings(model)
    assert int(numpy(again.steps_done)) == 3
    assert numpy(again.bank.value.where).all()  # 12 rows went through 10 places
    assert int(numpy(again.bank.value.cursor)) == 2
    assert not again.teacher.trainable_weights
    assert train(again, 3, STEPS, soft) == expected
    for old, new in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(numpy(old), numpy(new), err_msg=old.path)


def test_a_given_bank_stays_and_is_loaded(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(7, CLASSES)).astype("float32")
    bank = TeacherBank.from_logits(rows, np.arange(7) % CLASSES)
    model = MCLDDistiller(dense(16), dense(3), bank_size=bank)
    model.compile(keras.optimizers.SGD(0.0))
    model.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    for distiller in (model, again):
        for step in range(2):
            x, y = data(4, seed=step)
            loss = float(distiller.train_on_batch(x, y, return_dict=True)["loss"])
            distiller.reset_metrics()
            teacher = logits(distiller.teacher, x)
            student, keys = logits(distiller.student, x), bank.keys(teacher, y)
            assert_value(loss, float(mcld_loss(student, teacher, y, keys=keys)), "float32")
        for kept, row in zip(distiller.bank.value, bank, strict=True):
            np.testing.assert_array_equal(numpy(kept), row)


def test_a_given_bank_of_soft_labels_needs_no_word_of_them() -> None:
    soft = np.full((7, CLASSES), 1 / CLASSES, "float32")
    bank = TeacherBank.from_logits(np.eye(7, CLASSES, dtype="float32"), soft)
    model = MCLDDistiller(dense(16), dense(3), bank_size=bank)
    assert model.get_config()["soft_labels"]
    np.testing.assert_array_equal(numpy(model.bank.value.labels), soft)


def test_a_given_bank_that_does_not_fit_is_refused() -> None:
    rows = np.zeros((7, CLASSES), "float32")
    with pytest.raises(ValueError, match=rf"bank_size needs a bank of {CLASSES} classes.* got 1"):
        MCLDDistiller(dense(16), dense(3), bank_size=TeacherBank.from_logits(rows[:, :1], [0] * 7))


def test_weights_alone_carry_the_bank_and_the_step(tmp_path: Path) -> None:
    model = distiller(soft=False)
    train(model, 0, 3, soft=False)
    model.save_weights(tmp_path / "state.weights.h5")
    other = distiller(soft=False)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "state.weights.h5")
    assert int(numpy(other.steps_done)) == 3
    for ours, theirs in zip(model.bank.value, other.bank.value, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))
    assert train(other, 3, STEPS, soft=False) == train(model, 3, STEPS, soft=False)


def test_the_bank_adds_keys() -> None:
    """Each step contrasts with the rows of the steps before, by the reference's own bank."""
    model = MCLDDistiller(dense(16), dense(3), bank_size=10)
    model.compile(keras.optimizers.SGD(0.0))
    bank = TeacherBank.empty(10, CLASSES)
    losses = train(model, 0, STEPS, soft=False)
    for step, loss in enumerate(losses):
        x, y = data(4, seed=step)
        s, t = logits(model.student, x), logits(model.teacher, x).astype("float32")
        expected = reference(s, t, y, keys=bank.keys(t, y))
        if step:
            assert abs(expected - reference(s, t, y)) > 1e-3
        assert_value(loss, expected, "float32", 100.0)
        bank = bank.push(t, y)


def with_means() -> MCLDDistiller:
    config = MCLDConfig(category_contrast="prototypes", weight_instance=0.0)
    made = MCLDDistiller(dense(16), dense(3), config, class_means=True)
    made.compile(keras.optimizers.Adam(0.05))
    return made


def test_class_means_follow_the_batches() -> None:
    """By the reference's own means, at a rate of 0; `evaluate` leaves them as they are."""
    model, means = with_means(), ClassMeans.empty(CLASSES)
    model.compile(keras.optimizers.SGD(0.0))
    model.evaluate_distillation = True
    for step, loss in enumerate(train(model, 0, 3, soft=False)):
        x, y = data(4, seed=step)
        s, t = logits(model.student, x), logits(model.teacher, x).astype("float32")
        means = means.update(t, y)  # of NumPy
        keys = TeacherKeys(t, y, prototypes=means.prototypes)
        expected = reference(s, t, y, keys=keys, config=model.config)
        assert abs(expected - reference(s, t, y, config=model.config)) > 1e-3 or not step
        assert_value(loss, expected, "float32", 100.0)
    history = model.evaluate(x, y, batch_size=4, return_dict=True, verbose=0)
    assert_value(history["distillation_loss"], expected, "float32", 100.0)
    np.testing.assert_array_equal(numpy(model.class_means.value.counts), means.counts)


def test_a_loaded_distiller_has_its_class_means(tmp_path: Path) -> None:
    model = with_means()
    train(model, 0, 3, soft=False)
    model.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    assert settings(again) == settings(model)
    for ours, theirs in zip(model.class_means.value, again.class_means.value, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))
    assert train(again, 3, STEPS, soft=False) == train(model, 3, STEPS, soft=False)


def test_class_means_need_prototypes() -> None:
    with pytest.raises(ValueError, match=r"MCLDDistiller: class_means needs a config.*'labels'"):
        MCLDDistiller(dense(16), dense(3), class_means=True)

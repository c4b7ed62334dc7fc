"""The Keras example, in one process on one of Keras' backends; `test_keras_cifar100` starts it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import keras
import keras_cifar100
import numpy as np
import pytest
from recipes.keras import SGD

from tests.examples.scripts.test_training_scripts import assert_equal_weights, history, weights

SMALL = ["--teacher-epochs", "1", "--student", "mlp-8", "--epochs", "2"]
SMALL += ["--train-size", "300", "--validation-size", "100", "--no-onnx"]
pytestmark = pytest.mark.filterwarnings(  # of NumPy, on how Keras reads its own variables
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def run(out: Path, *arguments: str) -> int:
    teacher = [] if "--teacher" in arguments else ["--teacher", "conv-4"]
    return keras_cifar100.main([*SMALL, *teacher, *arguments, "--out", str(out)])


def interrupt(event: str, epoch: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process Ctrl-C before a callback: batch or epoch ``number`` of ``mcld``'s epoch."""
    original = getattr(keras_cifar100.Watch, event)

    def interrupting(self: Any, done: int, logs: Any = None) -> None:
        if (self.run.options.method, self.run.epoch, done) == ("mcld", epoch, number):
            os.kill(os.getpid(), signal.SIGINT)
        original(self, done, logs)

    monkeypatch.setattr(keras_cifar100.Watch, event, interrupting)


@pytest.mark.parametrize(
    "arguments",
    [["--crop", "1"], []],
    ids=["teacher-inside", "teacher-answers"],
)
def test_ctrl_c_is_resumed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """In the first epoch, and in a later one; with a bank, whose rows have to come back."""
    arguments = [*arguments, "--bank-size", "100"]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    assert run(whole, *arguments) == 0
    with monkeypatch.context() as patch:
        interrupt("on_train_batch_end", 0, 2, patch)
        assert run(stopped, *arguments) == 130
    with monkeypatch.context() as patch:
        interrupt("on_train_batch_end", 1, 1, patch)
        assert run(stopped, *arguments, "--resume") == 130
    assert run(stopped, *arguments, "--resume") == 0
    assert_equal_weights(stopped, whole)
    for ours, theirs in zip(history(stopped), history(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    wanted = {"loss", "term_instance", "term_sample", "term_category", "term_ramp", "test_accuracy"}
    assert wanted < history(whole)[0].keys()


def test_a_teacher_inside_says_what_it_answers_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `fit`, from its table, and through the cache of an earlier run."""
    one, two, inside = tmp_path / "one", tmp_path / "two", tmp_path / "inside"
    cache = ["--teacher-cache", str(tmp_path / "cache")]
    assert run(one, *cache) == 0
    (file,) = (tmp_path / "cache").glob("digits-*.npy")
    teacher = ["--teacher-weights", str(one / "teacher" / "last.keras")]
    assert run(two, *cache, *teacher) == 0
    assert_equal_weights(one, two)
    with monkeypatch.context() as patch:
        patch.setattr("recipes.data.augment", lambda images, *_: images)
        assert run(inside, *teacher, "--crop", "1") == 0
    first, second = weights(one), weights(inside)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=0, atol=1e-4)
    with open(file, "r+b") as opened:
        opened.truncate(1000)
    assert run(two, *cache, *teacher, "--overwrite") == 2


def test_the_decay_is_part_of_the_gradient() -> None:
    """Two steps of SGD as the recipe's framework has it: momentum over gradient + decay."""
    variable = keras.Variable(np.array([2.0, -1.0], "float32"))
    optimizer = SGD(0.1, 0.9, 0.5)
    optimizer.build([variable])
    weights, velocity = np.array([2.0, -1.0]), np.zeros(2)
    for gradient in (np.array([1.0, 0.0]), np.array([0.5, 2.0])):
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))])
        velocity = 0.9 * velocity + gradient + 0.5 * weights
        weights = weights - 0.1 * velocity
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), weights, rtol=1e-6)


def test_a_network_of_keras_applications_teaches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With random weights, hence the warning; its images are scaled to what it takes."""
    own = ["--teacher", "keras.applications:MobileNetV3Small", "--epochs", "1"]
    assert run(tmp_path / "own", *own, "--teacher-size", "32") == 0
    printed = capsys.readouterr().out
    assert "teacher keras.applications:MobileNetV3Small: validation " in printed
    assert "warning: the teacher is hardly better than chance" in printed
    assert run(tmp_path / "none", "--teacher", "keras.applications:NoSuchNet") == 2
    assert "keras.applications:NoSuchNet cannot be built" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["kd", "dkd", "mcld-ce"])
def test_the_other_losses_train(tmp_path: Path, method: str) -> None:
    arguments = ["--method", method, "--epochs", "4", "--teacher-epochs", "4", "--lr", "0.03"]
    assert run(tmp_path, *arguments, "--batch-size", "16") == 0
    assert history(tmp_path)[-1]["test_accuracy"] > 0.3  # chance is 0.1


def test_a_file_that_is_not_a_model_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "last.keras"
    path.write_text("not a model")
    assert run(tmp_path / "out", "--teacher-weights", str(path)) == 2
    assert f"error: {path} is not a readable Keras model" in capsys.readouterr().err

"""The Keras recipe, in one process on one of Keras' backends; `test_keras_cifar100` starts it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import keras_cifar100
import numpy as np
import pytest
from recipes import keras_checkpoints, keras_learner, keras_models, keras_training
from recipes.handover import metadata
from recipes.methods import mcld_config
from recipes.options import build_parser, parse_options

from mcld_core import TeacherBank, mcld_loss
from tests.examples.conftest import EXAMPLES

SMALL = ["--teacher", "conv-4", "--teacher-epochs", "1", "--student", "mlp-8", "--epochs", "2"]
SMALL += ["--train-size", "300", "--validation-size", "100"]
pytestmark = pytest.mark.filterwarnings(  # of NumPy, on how Keras reads its own variables
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(autouse=True)
def quick_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test looks at pictures and export; they take longer than the training of the others."""
    if "files" not in request.node.name:
        monkeypatch.setattr("recipes.comparison.write_report", lambda *_: None)
        monkeypatch.setattr("recipes.plots.png", lambda figure: b"")
        monkeypatch.setattr("recipes.keras_onnx.export_student", lambda *_: None)


def assert_equal_weights(one: Path, other: Path) -> None:
    first, second = (keras.models.load_model(path / "last.keras") for path in (one, other))
    assert len(first.get_weights()) == len(second.get_weights()) > 0
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def log(run: Path, method: str) -> list[dict[str, str]]:
    with (run / "seed0" / method / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def log_without_seconds(run: Path) -> list[dict[str, str]]:
    return [row | {"seconds": ""} for row in log(run, "mcld")]


def test_quick_run_leaves_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["ce", "kd", "kd-ls", "dkd", "mcld", "mcld-ce"]
    if keras.backend.backend() != "torch":
        methods = ["kd", "mcld"]  # each of them is compiled
    arguments = [*SMALL, "--out", str(tmp_path), "--methods", *methods, "--tensorboard"]
    assert keras_cifar100.main([*arguments, "--bank-size", "100"]) == 0
    printed = capsys.readouterr().out
    for method in ["teacher", *methods]:
        assert f"| {method} |" in printed
        best, last = (tmp_path / "seed0" / method / f"{name}.keras" for name in ("best", "last"))
        assert keras.models.load_model(best).output_shape == (None, 10)
        accuracies = [float(row["test_accuracy"]) for row in log(tmp_path, method)]
        for path in (best, last):
            notes = keras_checkpoints.read_model_notes(path)
            assert metadata(notes)["accuracy"] == accuracies[notes["epoch"] - 1]
    records = json.loads((tmp_path / "results.json").read_text())
    assert [record["method"] for record in records] == ["teacher", *methods]
    assert all(0.0 < record["test_last"] < 1.0 for record in records)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report.html").stat().st_size > 10_000
    rows = log(tmp_path, "mcld")
    assert len(rows) == 2
    wanted = {"loss", "term_instance", "term_sample", "term_category", "term_ramp", "test_accuracy"}
    assert wanted < rows[0].keys()
    assert list((tmp_path / "seed0" / "mcld" / "tensorboard").iterdir())


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    script = [sys.executable, str(EXAMPLES / "keras_cifar100.py"), *SMALL, "--methods", "mcld"]
    script += ["--student", "mlp-128", "--epochs", "4", "--bank-size", "100"]
    script += ["--batch-size", "16", "--crop", "1"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*script, "--out", str(killed)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not (killed / "seed0" / "mcld" / "checkpoint.zip").exists():
            assert process.poll() is None, "ended before its first checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert not (killed / "seed0" / "mcld" / "last.keras").exists(), "it had already finished"
    arguments = script[2:]
    assert keras_cifar100.main([*arguments, "--out", str(killed), "--resume"]) == 0
    assert keras_cifar100.main([*arguments, "--out", str(whole)]) == 0
    assert_equal_weights(killed / "seed0" / "mcld", whole / "seed0" / "mcld")
    assert_equal_weights(killed / "seed0" / "teacher", whole / "seed0" / "teacher")
    assert log_without_seconds(killed) == log_without_seconds(whole)


def interrupt(event: str, epoch: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process Ctrl-C before a callback: batch or epoch ``number`` of ``mcld``'s epoch."""
    original = getattr(keras_training._Epochs, event)

    def interrupting(self: Any, done: int, logs: Any = None) -> None:
        training = self.training
        if (training.job.method, training.epoch, done) == ("mcld", epoch, number):
            os.kill(os.getpid(), signal.SIGINT)
        original(self, done, logs)

    monkeypatch.setattr(keras_training._Epochs, event, interrupting)


@pytest.mark.parametrize(
    "bank",
    [["100", "--crop", "1"], ["all", "--crop", "1"], ["all"]],
    ids=["earlier-batches", "all", "all-and-still"],
)
def test_ctrl_c_saves_within_the_epoch_and_says_how_to_go_on(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bank: list[str],
) -> None:
    """In the first epoch, and in a later one; resumed, it ends as if it had not been stopped."""
    arguments = [*SMALL, "--methods", "mcld", "--bank-size", *bank]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    assert keras_cifar100.main([*arguments, "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        interrupt("on_train_batch_end", 0, 2, patch)
        assert keras_cifar100.main([*arguments, "--out", str(stopped)]) == 130
    error = capsys.readouterr().err
    assert "seed 0 mcld stopped in epoch 1/2 after step 3; the state is saved" in error
    assert error.rstrip().endswith("--resume")
    with monkeypatch.context() as patch:
        interrupt("on_train_batch_end", 1, 1, patch)
        assert keras_cifar100.main([*arguments, "--out", str(stopped), "--resume"]) == 130
    assert (
        "seed 0 mcld stopped in epoch 2/2 after step 2; the state is saved"
        in capsys.readouterr().err
    )
    assert keras_cifar100.main([*arguments, "--out", str(stopped), "--resume"]) == 0
    assert_equal_weights(stopped / "seed0" / "mcld", whole / "seed0" / "mcld")
    assert log_without_seconds(stopped) == log_without_seconds(whole)


def test_ctrl_c_after_the_last_step_stops_after_the_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*SMALL, "--methods", "mcld", "ce", "--out", str(tmp_path)]
    interrupt("on_epoch_end", 1, 1, monkeypatch)
    assert keras_cifar100.main(arguments) == 130
    assert "seed 0 mcld stopped after epoch 2/2" in capsys.readouterr().err
    assert (tmp_path / "seed0" / "mcld" / "last.keras").exists()
    assert not (tmp_path / "seed0" / "ce").exists()


@pytest.mark.parametrize("cached", [True, False])
def test_the_keys_are_the_whole_training_set(cached: bool) -> None:
    """Loss of a batch without its labels' mask, so that the rows' own numbers count."""
    options = parse_options(build_parser("test"), ["--bank-size", "all", "--no-mcld-target-mask"])
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 8, 8, 1)).astype("float32")
    labels, index = rng.integers(0, 10, 30), np.array([4, 1, 17])
    teacher, student = (keras_models.build(name, (8, 8, 1), 10) for name in ("mlp-16", "mlp-8"))
    table = teacher.predict_on_batch(images)
    models = keras_learner.with_more_inputs(teacher, student, cached=cached, indexed=True)
    keys = keras_learner.WholeSet(table, labels)
    learner = keras_learner.make_learner("mcld", *reversed(models), options, 10, keys)
    x = (images[index], *([table[index]] if cached else []), index.astype("int32"))
    logits = learner(x)
    loss = learner.compute_loss(x, labels[index], logits, training=False)
    bank = TeacherBank.from_logits(table, labels)
    expected = mcld_loss(
        student.predict_on_batch(images[index]),
        table[index],
        labels[index],
        config=mcld_config(options),
        keys=bank.keys(table[index], labels[index], index=index),
        progress=0.0,
    )
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss), expected, rtol=1e-5)


def test_a_teacher_is_loaded_and_its_logits_are_cached(tmp_path: Path) -> None:
    one, two, cache = tmp_path / "one", tmp_path / "two", tmp_path / "cache"
    still = [*SMALL, "--methods", "kd", "mcld", "--crop", "0"]
    assert keras_cifar100.main([*still, "--out", str(one)]) == 0
    teacher = str(one / "seed0" / "teacher" / "last.keras")
    cached = [*still, "--teacher-checkpoint", teacher, "--teacher-cache", str(cache)]
    assert keras_cifar100.main([*cached, "--out", str(two)]) == 0
    (file,) = cache.glob("digits-*.npy")
    for method in ("kd", "mcld"):
        assert_equal_weights(one / "seed0" / method, two / "seed0" / method)
    with open(file, "r+b") as opened:
        opened.truncate(1000)
    assert keras_cifar100.main([*cached, "--out", str(two)]) == 2


def test_checkpoints_that_do_not_fit_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--methods", "ce", "--out", str(tmp_path)]
    assert keras_cifar100.main(arguments) == 0
    assert keras_cifar100.main([*arguments, "--resume", "--lr", "ce=0.02"]) == 2
    assert "is of another training" in capsys.readouterr().err
    path = tmp_path / "seed0" / "ce" / "checkpoint.zip"
    path.write_bytes(path.read_bytes()[:500])
    assert keras_cifar100.main([*arguments, "--resume"]) == 2
    assert f"{path} is no readable checkpoint" in capsys.readouterr().err
    other = [*arguments, "--teacher-checkpoint", str(tmp_path / "seed0" / "ce" / "log.csv")]
    assert keras_cifar100.main(other) == 2
    assert "is no readable Keras model" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--methods", "ce", "--lr", "ce=1e18", "--out", str(tmp_path)]
    assert keras_cifar100.main(arguments) == 2
    error = capsys.readouterr().err
    assert "seed 0 ce: the loss is nan in epoch 1" in error
    assert "Try a smaller rate: --lr ce=" in error
    assert not (tmp_path / "seed0" / "ce" / "checkpoint.zip").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "resnet19"], "unknown model 'resnet19'; known: mlp-WIDTH"),
        (["--teacher-checkpoint", "nowhere.keras"], "nowhere.keras does not exist"),
    ],
)
def test_mistakes_are_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert keras_cifar100.main([*SMALL, *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")


def test_the_decay_is_part_of_the_gradient() -> None:
    """Two steps of SGD as the recipe's framework has it: momentum over gradient + decay."""
    from recipes.keras_learner import SGD

    variable = keras.Variable(np.array([2.0, -1.0], "float32"))
    optimizer = SGD(0.1, 0.9, 0.5)
    optimizer.build([variable])
    weights, velocity = np.array([2.0, -1.0]), np.zeros(2)
    for gradient in (np.array([1.0, 0.0]), np.array([0.5, 2.0])):
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))])
        velocity = 0.9 * velocity + gradient + 0.5 * weights
        weights = weights - 0.1 * velocity
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), weights, rtol=1e-6)

"""The Keras recipe, in one process on one of Keras' backends; `test_keras_cifar100` starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import keras_cifar100
import numpy as np
import pytest
from recipes import keras_training

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


def test_quick_run_leaves_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["ce", "kd", "kd-ls", "dkd", "mcld", "mcld-ce"]
    if keras.backend.backend() != "torch":
        methods = ["kd", "mcld"]  # each of them is compiled
    arguments = [*SMALL, "--out", str(tmp_path), "--methods", *methods, "--tensorboard"]
    assert keras_cifar100.main([*arguments, "--bank-size", "100"]) == 0
    printed = capsys.readouterr().out
    for method in ["teacher", *methods]:
        assert f"| {method} |" in printed
        student = keras.models.load_model(tmp_path / "seed0" / method / "best.keras")
        assert student.output_shape == (None, 10)
    records = json.loads((tmp_path / "results.json").read_text())
    assert [record["method"] for record in records] == ["teacher", *methods]
    assert all(0.0 < record["test_last"] < 1.0 for record in records)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report.html").stat().st_size > 10_000
    header, *rows = (tmp_path / "seed0" / "mcld" / "log.csv").read_text().splitlines()
    assert len(rows) == 2
    wanted = {"loss", "term_instance", "term_sample", "term_category", "term_ramp", "test_accuracy"}
    assert wanted < set(header.split(","))
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
    logs = [
        [line.rpartition(",")[0] for line in (run / "seed0/mcld/log.csv").read_text().splitlines()]
        for run in (killed, whole)
    ]
    assert logs[0] == logs[1]  # all but the seconds


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = keras_training.learning_rate

    def interrupting(schedule: str, base: float, done: float) -> float:
        if done == 0.5:  # of the student: the teacher has one epoch
            os.kill(os.getpid(), signal.SIGINT)
        return original(schedule, base, done)

    arguments = [*SMALL, "--methods", "ce", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(keras_training, "learning_rate", interrupting)
        assert keras_cifar100.main(arguments) == 130
    error = capsys.readouterr().err
    assert "seed 0 ce stopped in epoch 2/2" in error
    assert error.rstrip().endswith("--resume")
    assert keras_cifar100.main([*arguments, "--resume"]) == 0
    assert "seed 0 ce: resumed after epoch 1/2" in capsys.readouterr().out


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
        (["--bank-size", "all"], "--bank-size all: Keras' bank holds earlier batches"),
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

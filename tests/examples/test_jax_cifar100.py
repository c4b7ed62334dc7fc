"""The JAX recipe: its quick command, exact resumption, several devices, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax_cifar100
import numpy as np
import pytest
from flax import nnx
from recipes import jax_models, jax_training

from tests.examples.conftest import EXAMPLES

SMALL = ["--teacher", "mlp-16", "--teacher-epochs", "1", "--student", "mlp-8", "--epochs", "2"]


@pytest.fixture(autouse=True)
def as_a_user_has_it() -> Iterator[None]:
    """JAX's own defaults, whatever other tests set."""
    names = ("jax_enable_x64", "jax_numpy_rank_promotion", "jax_numpy_dtype_promotion")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (False, "allow", "standard"), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def run(out: Path, *arguments: str) -> int:
    return jax_cifar100.main([*SMALL, *arguments, "--out", str(out)])


def weights(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "last.npz") as archive:
        return {name: archive[name] for name in archive if name != "notes"}


def assert_equal_weights(one: Path, other: Path, tolerance: float = 0.0) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert first
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=0, atol=tolerance, err_msg=name)


def command(out: Path, *arguments: str) -> list[str]:
    return [
        sys.executable,
        str(EXAMPLES / "jax_cifar100.py"),
        *SMALL,
        *arguments,
        "--out",
        str(out),
    ]


def test_all_methods_train_and_the_run_leaves_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With convolutions and batch norm, augmentation (so the teacher runs in the step), a bank."""
    methods = ["ce", "kd", "kd-ls", "dkd", "mcld", "mcld-ce"]
    extra = ["--teacher", "conv-4", "--student", "conv-2", "--flip", "--bank-size", "100"]
    assert run(tmp_path, *extra, "--train-size", "300", "--methods", *methods) == 0
    printed = capsys.readouterr().out
    for method in ["teacher", *methods]:
        assert f"| {method} |" in printed
        assert (tmp_path / "seed0" / method / "last.npz").exists()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (tmp_path / "report.html").read_text()
    assert len((tmp_path / "seed0" / "mcld" / "log.csv").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "config.json").read_text())["student"] == "conv-2"


def test_a_student_learns(tmp_path: Path) -> None:
    arguments = ["--student", "mlp-16", "--epochs", "12", "--methods", "mcld"]
    assert run(tmp_path, *arguments) == 0
    record = json.loads((tmp_path / "results.json").read_text())[1]
    assert record["test_last"] > 0.8  # chance is 0.1


def test_killed_in_an_epoch_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """With a bank, whose rows and cursor have to come back too."""
    arguments = ["--student", "mlp-32", "--epochs", "30", "--methods", "mcld", "--crop", "1"]
    arguments += ["--batch-size", "16", "--bank-size", "50"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(command(killed, *arguments))
    try:
        deadline = time.monotonic() + 240
        while not (killed / "seed0" / "mcld" / "checkpoint.npz").exists():
            assert process.poll() is None, "ended before its first checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert not (killed / "seed0" / "mcld" / "last.npz").exists(), "it had already finished"
    assert run(killed, *arguments, "--resume") == 0
    assert run(whole, *arguments) == 0
    for name in ("teacher", "mcld"):
        assert_equal_weights(killed / "seed0" / name, whole / "seed0" / name)


def interrupt_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process SIGINT during the given step of a student's training."""
    original = jax_training.progress_bar
    seen = 0

    def bar(batches: Any, total: int, title: str, initial: int = 0) -> Iterator[Any]:
        nonlocal seen
        for batch in original(batches, total, title, initial):
            if "mcld" in title:
                seen += 1
                if seen == steps:
                    os.kill(os.getpid(), signal.SIGINT)
            yield batch

    monkeypatch.setattr(jax_training, "progress_bar", bar)


def test_ctrl_c_saves_within_the_epoch_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--methods", "mcld", "--crop", "1"]
    with monkeypatch.context() as patch:
        interrupt_after(22, patch)
        assert run(tmp_path / "stopped", *arguments) == 130
    error = capsys.readouterr().err
    assert "stopped in epoch 2/2 after step 5" in error
    assert error.rstrip().endswith("--resume")
    assert run(tmp_path / "stopped", *arguments, "--resume") == 0
    assert run(tmp_path / "whole", *arguments) == 0
    one, other = (tmp_path / name / "seed0" / "mcld" for name in ("stopped", "whole"))
    assert_equal_weights(one, other)
    logs = [
        [line.rpartition(",")[0] for line in (path / "log.csv").read_text().splitlines()]
        for path in (one, other)
    ]
    assert logs[0] == logs[1]  # all but the seconds


def test_four_devices_equal_one(tmp_path: Path) -> None:
    """Batches of 64 are split over the devices, the last one of 54 is not."""
    extra = ["--teacher", "conv-4", "--student", "conv-2", "--methods", "mcld", "--crop", "0"]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    four = command(tmp_path / "four", *extra)
    subprocess.run(four, env=environment, check=True, capture_output=True)
    assert run(tmp_path / "one", *extra) == 0
    one, other = (tmp_path / name / "seed0" / "mcld" for name in ("one", "four"))
    assert_equal_weights(one, other, 1e-4)


def test_the_teachers_answers_are_kept_and_used(tmp_path: Path) -> None:
    arguments = ["--methods", "mcld", "--crop", "0", "--bank-size", "all"]
    arguments += ["--teacher-cache", str(tmp_path / "cache")]
    assert run(tmp_path / "one", *arguments) == 0
    (path,) = (tmp_path / "cache").iterdir()
    written = path.stat().st_mtime_ns
    assert run(tmp_path / "two", *arguments) == 0
    assert path.stat().st_mtime_ns == written
    assert_equal_weights(*(tmp_path / name / "seed0" / "mcld" for name in ("one", "two")))
    path.write_bytes(path.read_bytes()[:200])
    assert run(tmp_path / "three", *arguments) == 2


def test_other_or_damaged_checkpoints_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--methods", "ce"]
    assert run(tmp_path, *arguments) == 0
    assert run(tmp_path, *arguments, "--resume", "--lr", "ce=0.02") == 2
    assert "is of another training" in capsys.readouterr().err
    teacher = tmp_path / "seed0" / "teacher" / "last.npz"
    other = ["--teacher", "mlp-4", "--teacher-checkpoint", str(teacher), "--methods", "kd"]
    assert run(tmp_path / "kd", *other) == 2
    assert f"{teacher} does not fit" in capsys.readouterr().err
    path = tmp_path / "seed0" / "ce" / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:500])
    assert run(tmp_path, *arguments, "--resume") == 2
    assert f"{path} is no readable checkpoint" in capsys.readouterr().err


def test_a_loaded_teacher_is_the_trained_one(tmp_path: Path) -> None:
    assert run(tmp_path / "one", "--methods", "kd") == 0
    teacher = tmp_path / "one" / "seed0" / "teacher" / "last.npz"
    assert run(tmp_path / "two", "--methods", "kd", "--teacher-checkpoint", str(teacher)) == 0
    assert_equal_weights(*(tmp_path / name / "seed0" / "kd" for name in ("one", "two")))


def test_a_loss_that_is_not_finite_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--methods", "ce", "--lr", "ce=1e18") == 2
    error = capsys.readouterr().err
    assert "seed 0 ce: the loss is" in error
    assert "Try a smaller rate: --lr ce=" in error
    assert not (tmp_path / "seed0" / "ce" / "checkpoint.npz").exists()


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet20", 278_324),
        ("resnet56", 861_620),
        ("resnet8x4", 1_233_540),
        ("resnet32x4", 7_433_860),
        ("wrn_16_2", 703_284),
        ("wrn_40_2", 2_255_156),
        ("vgg8", 3_965_028),
        ("vgg13", 9_462_180),
    ],
)
def test_models_have_the_published_sizes(name: str, published: int) -> None:
    shapes = nnx.eval_shape(lambda: jax_models.build(name, (32, 32, 3), 100))
    assert jax_models.count_parameters(shapes) == published


@pytest.mark.parametrize("name", ["conv-2", "resnet8x4", "wrn_16_2", "vgg8"])
def test_models_give_a_logit_a_class(name: str) -> None:
    model = nnx.eval_shape(lambda: jax_models.build(name, (32, 32, 3), 7))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), "float32")
    assert nnx.eval_shape(lambda model, x: model(x), model, images).shape == (2, 7)

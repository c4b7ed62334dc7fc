"""The JAX recipe: its quick command, exact resumption, several devices, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax_cifar100
import numpy as np
import pytest
from recipes import array_loop, jax_training, npz
from recipes.handover import metadata

from tests.examples.conftest import EXAMPLES, QUICK

SMALL = ["--teacher", "mlp-16", "--teacher-epochs", "1", "--student", "mlp-8", "--epochs", "2"]


pytestmark = pytest.mark.usefixtures("plain_jax")


@pytest.fixture(autouse=True, scope="module")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Most of these tests compile the same programs, here and in processes of their own."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(names, (folder, 0.0), strict=True):
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


@pytest.fixture(autouse=True)
def quick_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test looks at pictures and export; they take longer than the training of the others."""
    if "files" not in request.node.name:
        monkeypatch.setattr("recipes.comparison.write_report", lambda *arguments: None)
        monkeypatch.setattr("recipes.plots.png", lambda figure: b"")
        monkeypatch.setattr("recipes.jax_onnx.export_student", lambda *_: None)


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


def test_all_methods_train_and_the_run_leaves_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a teacher that runs in the step, for the pictures are augmented, and a bank."""
    methods = ["ce", "kd", "kd-ls", "dkd", "mcld", "mcld-ce"]
    extra = ["--teacher", "conv-4", "--flip", "--bank-size", "100"]
    assert run(tmp_path, *extra, "--train-size", "192", "--methods", *methods) == 0
    printed = capsys.readouterr().out
    for method in ["teacher", *methods]:
        assert f"| {method} |" in printed
        assert (tmp_path / "seed0" / method / "last.npz").exists()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (tmp_path / "report.html").read_text()
    assert len((tmp_path / "seed0" / "mcld" / "log.csv").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "config.json").read_text())["teacher"] == "conv-4"


def interrupt_after(steps: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal during the given step of a student's training."""
    original = array_loop.progress_bar
    seen = 0

    def bar(batches: Any, total: int, title: str, initial: int = 0) -> Iterator[Any]:
        nonlocal seen
        for batch in original(batches, total, title, initial):
            if "mcld" in title:
                seen += 1
                if seen == steps:
                    os.kill(os.getpid(), number)
            yield batch

    monkeypatch.setattr(array_loop, "progress_bar", bar)


KILLED = """
import signal, sys
import pytest, jax_cifar100
from tests.examples.test_jax_cifar100 import interrupt_after
interrupt_after(150, signal.SIGKILL, pytest.MonkeyPatch())
jax_cifar100.main(sys.argv[1:])
"""


def test_killed_in_an_epoch_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """With a bank, whose rows and cursor have to come back too."""
    arguments = ["--student", "mlp-32", "--epochs", "5", "--methods", "mcld", "--crop", "1"]
    arguments += ["--batch-size", "16", "--bank-size", "50"]  # 68 batches an epoch
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.run(
        [sys.executable, "-c", KILLED, *SMALL, *arguments, "--out", str(killed)],
        env=os.environ | {"PYTHONPATH": f"{EXAMPLES}:{EXAMPLES.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert (killed / "seed0" / "mcld" / "checkpoint.npz").exists()
    assert run(killed, *arguments, "--resume") == 0
    assert run(whole, *arguments) == 0
    record = json.loads((whole / "results.json").read_text())[1]
    assert record["test_last"] > 0.3  # chance is 0.1
    for name in ("teacher", "mcld"):
        assert_equal_weights(killed / "seed0" / name, whole / "seed0" / name)


def test_ctrl_c_saves_within_the_epoch_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--methods", "mcld", "--crop", "1"]
    with monkeypatch.context() as patch:
        interrupt_after(22, signal.SIGINT, patch)
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
    extra = ["--student", "conv-2", "--methods", "mcld", "--crop", "0", "--train-size", "246"]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    source = QUICK.format(example="jax_cifar100", framework="jax")
    four = [sys.executable, "-c", source, *SMALL, *extra, "--out", str(tmp_path / "four")]
    subprocess.run(four, env=environment, check=True, capture_output=True)
    assert run(tmp_path / "one", *extra) == 0
    one, other = (tmp_path / name / "seed0" / "mcld" for name in ("one", "four"))
    assert_equal_weights(one, other, 1e-4)


def test_the_teachers_answers_are_kept_and_used(tmp_path: Path) -> None:
    """The second run loads the teacher, too; both train the same student."""
    arguments = ["--methods", "mcld", "--crop", "0", "--bank-size", "all"]
    arguments += ["--teacher-cache", str(tmp_path / "cache")]
    assert run(tmp_path / "one", *arguments) == 0
    (path,) = (tmp_path / "cache").iterdir()
    written = path.stat().st_mtime_ns
    arguments += ["--teacher-checkpoint", str(tmp_path / "one" / "seed0" / "teacher" / "last.npz")]
    assert run(tmp_path / "two", *arguments) == 0
    assert path.stat().st_mtime_ns == written
    assert_equal_weights(*(tmp_path / name / "seed0" / "mcld" for name in ("one", "two")))
    path.write_bytes(path.read_bytes()[:200])
    assert run(tmp_path / "three", *arguments) == 2


def test_ctrl_c_while_the_last_epoch_is_evaluated_is_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next training would begin."""
    original, seen = jax_training.accuracy, 0

    def accuracy(*rest: Any) -> float:
        nonlocal seen
        seen += 1
        if seen == 6:  # two splits, in the teacher's only epoch and in both of the first student
            os.kill(os.getpid(), signal.SIGINT)
        return original(*rest)

    with monkeypatch.context() as patch:
        patch.setattr(jax_training, "accuracy", accuracy)
        assert run(tmp_path, "--methods", "ce", "mcld") == 130
    error = capsys.readouterr().err
    folder = tmp_path / "seed0"
    assert f"seed 0 ce stopped after epoch 2/2; the state is saved in {folder / 'ce'}" in error
    assert (folder / "ce" / "last.npz").exists()
    assert not (folder / "mcld").exists()
    assert run(tmp_path, "--methods", "ce", "mcld", "--resume") == 0
    assert (folder / "mcld" / "last.npz").exists()


def test_the_bar_shows_loss_and_accuracy_without_waiting_in_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, float]] = []
    monkeypatch.setattr(
        array_loop,
        "show",
        lambda bar, sums: shown.append({key: float(value) for key, value in sums.items()}),
    )
    assert run(tmp_path, "--methods", "kd", "--epochs", "1", "--batch-size", "16") == 0
    assert [sums["rows"] for sums in shown] == [50 * 16] * 2  # once in 68 steps, of both trainings
    assert all(0 < sums["train_accuracy"] < sums["rows"] for sums in shown)
    assert all(0 < sums["loss"] < 10 * sums["rows"] for sums in shown)


@pytest.mark.parametrize("size", [0, 100])
def test_the_epoch_that_validates_best_is_kept_and_each_file_names_its_accuracy(
    size: int, tmp_path: Path
) -> None:
    assert run(tmp_path, "--methods", "ce", "--validation-size", str(size)) == 0
    kept = {path.name for path in (tmp_path / "seed0" / "ce").glob("*.npz")}
    assert kept == {"checkpoint.npz", "last.npz"} | ({"best.npz"} if size else set())
    rows = npz.load(tmp_path / "seed0" / "ce" / "checkpoint.npz")[1]["rows"]
    for name in kept - {"checkpoint.npz"}:
        _, notes = npz.load(tmp_path / "seed0" / "ce" / name)
        assert notes["accuracy"] == rows[notes["epoch"] - 1]["test_accuracy"] > 0
        assert metadata(notes)["accuracy"] == notes["accuracy"]


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


def test_a_loss_that_is_not_finite_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--methods", "ce", "--lr", "ce=1e18") == 2
    error = capsys.readouterr().err
    assert "seed 0 ce: the loss is" in error
    assert "Try a smaller rate: --lr ce=" in error
    assert not (tmp_path / "seed0" / "ce" / "checkpoint.npz").exists()

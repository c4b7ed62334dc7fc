"""The PyTorch recipe: its quick command, exact resumption, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_cifar100
from recipes import torch_checkpoints, torch_training
from recipes.torch_onnx import load_student

from tests.examples.conftest import EXAMPLES

#: The quick command with its pictures and its export runs in the first test.
quickly = pytest.mark.usefixtures("quick_end")

SMALL = ["--teacher", "conv-4", "--teacher-epochs", "1", "--student", "mlp-8", "--epochs", "2"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch_checkpoints.load(folder / "last.pt")["model"]
    return state


def assert_equal_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_all_methods_train_and_the_run_leaves_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ["ce", "kd", "kd-ls", "dkd", "mcld", "mcld-ce"]
    arguments = [*SMALL, "--seeds", "0", "1", "--out", str(tmp_path), "--methods", *methods]
    assert torch_cifar100.main([*arguments, "--tensorboard"]) == 0
    printed = capsys.readouterr().out
    for method in ["teacher", *methods]:
        assert f"| {method} |" in printed
        assert (tmp_path / "seed1" / method / "last.pt").exists()
    records = json.loads((tmp_path / "results.json").read_text())
    assert {record["seed"] for record in records} == {0, 1}
    assert all(0.0 < record["test_last"] < 1.0 for record in records)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "seed0" / "mcld" / "log.csv").read_text().splitlines()) == 3
    assert list((tmp_path / "seed0" / "mcld" / "tensorboard").iterdir())
    assert json.loads((tmp_path / "config.json").read_text())["student"] == "mlp-8"


@quickly
def test_the_saved_configuration_repeats_the_run(tmp_path: Path) -> None:
    arguments = [*SMALL, "--methods", "mcld", "--mcld-weight-sample", "0.5", "--lr", "mcld=0.02"]
    assert torch_cifar100.main([*arguments, "--out", str(tmp_path / "one")]) == 0
    again = ["--config", str(tmp_path / "one" / "config.json"), "--out", str(tmp_path / "two")]
    assert torch_cifar100.main(again) == 0
    assert_equal_weights(tmp_path / "one" / "seed0" / "mcld", tmp_path / "two" / "seed0" / "mcld")
    first, second = (
        json.loads((tmp_path / run / "config.json").read_text()) for run in ("one", "two")
    )
    assert {**first, "out": None} == {**second, "out": None}


def interrupt_after(steps: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal during the given step of a student's training."""
    original = torch_training.progress_bar
    seen = 0

    def bar(batches: Any, total: int, title: str, initial: int = 0) -> Iterator[Any]:
        nonlocal seen
        for batch in original(batches, total, title, initial):
            if "mcld" in title:
                seen += 1
                if seen == steps:
                    os.kill(os.getpid(), number)
            yield batch

    monkeypatch.setattr(torch_training, "progress_bar", bar)


KILLED = """
import signal, sys
import pytest, torch_cifar100
from tests.examples.test_torch_cifar100 import interrupt_after
interrupt_after(100, signal.SIGKILL, pytest.MonkeyPatch())
torch_cifar100.main(sys.argv[1:])
"""


@quickly
def test_killed_in_an_epoch_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """With a bank, whose rows and cursor have to come back too."""
    arguments = [*SMALL, "--student", "mlp-128", "--epochs", "4", "--methods", "mcld"]
    arguments += ["--crop", "1", "--batch-size", "16", "--device", "cpu"]  # 68 steps an epoch
    arguments += ["--bank-size", "50"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments, "--out", str(killed)],
        env=os.environ | {"PYTHONPATH": f"{EXAMPLES}:{EXAMPLES.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert torch_checkpoints.load(killed / "seed0" / "mcld" / "checkpoint.pt")["epoch"] == 1
    assert not (killed / "seed0" / "mcld" / "last.pt").exists()
    assert torch_cifar100.main([*arguments, "--out", str(killed), "--resume"]) == 0
    assert torch_cifar100.main([*arguments, "--out", str(whole)]) == 0
    for name in ("teacher", "mcld"):
        assert_equal_weights(killed / "seed0" / name, whole / "seed0" / name)


@quickly
def test_ctrl_c_saves_within_the_epoch_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*SMALL, "--methods", "mcld", "--crop", "1", "--bank-size", "100"]
    stopped = [*arguments, "--out", str(tmp_path / "stopped")]
    with monkeypatch.context() as patch:
        interrupt_after(22, signal.SIGINT, patch)
        assert torch_cifar100.main(stopped) == 130
    error = capsys.readouterr().err
    assert "stopped in epoch 2/2 after step 5" in error
    assert "Go on with: python" in error
    assert error.rstrip().endswith("--resume")
    assert torch_cifar100.main([*stopped, "--resume"]) == 0
    assert torch_cifar100.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    assert_equal_weights(
        tmp_path / "stopped" / "seed0" / "mcld", tmp_path / "whole" / "seed0" / "mcld"
    )
    logs = [
        [line.rpartition(",")[0] for line in (path / "log.csv").read_text().splitlines()]
        for path in tmp_path.glob("*/seed0/mcld")
    ]
    assert logs[0] == logs[1]  # all but the seconds


@quickly
def test_ctrl_c_while_the_last_epoch_is_evaluated_is_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next training would begin."""
    arguments = [*SMALL, "--methods", "ce", "mcld", "--out", str(tmp_path)]
    original, seen = torch_training.accuracy, 0

    def accuracy(*rest: Any) -> float:
        nonlocal seen
        seen += 1
        if seen == 6:  # two splits, in the teacher's only epoch and in both of the first student
            os.kill(os.getpid(), signal.SIGINT)
        return original(*rest)

    with monkeypatch.context() as patch:
        patch.setattr(torch_training, "accuracy", accuracy)
        assert torch_cifar100.main(arguments) == 130
    error = capsys.readouterr().err
    folder = tmp_path / "seed0"
    assert f"seed 0 ce stopped after epoch 2/2; the state is saved in {folder / 'ce'}" in error
    assert error.rstrip().endswith("--resume")
    assert (folder / "ce" / "last.pt").exists()
    assert not (folder / "mcld").exists()
    assert torch_cifar100.main([*arguments, "--resume"]) == 0
    assert (folder / "mcld" / "last.pt").exists()


@quickly
def test_the_bar_shows_loss_and_accuracy_without_waiting_in_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, float]] = []
    monkeypatch.setattr(
        torch_training,
        "show",
        lambda bar, sums: shown.append({key: float(value) for key, value in sums.items()}),
    )
    arguments = [*SMALL, "--methods", "kd", "--epochs", "1", "--batch-size", "16"]
    assert torch_cifar100.main([*arguments, "--out", str(tmp_path)]) == 0
    assert [sums["rows"] for sums in shown] == [50 * 16] * 2  # once in 68 steps, of both trainings
    assert all(0 < sums["train_accuracy"] < sums["rows"] for sums in shown)
    assert all(0 < sums["loss"] < 10 * sums["rows"] for sums in shown)


@quickly
@pytest.mark.parametrize("size", [0, 100])
def test_a_best_epoch_is_kept_where_a_validation_split_chooses_it(
    size: int, tmp_path: Path
) -> None:
    arguments = [*SMALL, "--methods", "ce", "--validation-size", str(size)]
    assert torch_cifar100.main([*arguments, "--out", str(tmp_path)]) == 0
    kept = {path.name for path in (tmp_path / "seed0" / "ce").glob("*.pt")}
    assert kept == {"checkpoint.pt", "last.pt"} | ({"best.pt"} if size else set())


@quickly
def test_checkpoints_name_the_accuracy_of_their_epoch(tmp_path: Path) -> None:
    assert torch_cifar100.main([*SMALL, "--methods", "kd", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "seed0" / "kd"
    rows = torch_checkpoints.load(folder / "checkpoint.pt")["rows"]
    for file in ("last.pt", "best.pt"):
        saved = torch_checkpoints.load(folder / file)
        assert saved["accuracy"] == rows[saved["epoch"] - 1]["test_accuracy"] > 0
    known = load_student(folder / "last.pt")[2]
    assert (known["accuracy"], known["method"]) == (rows[-1]["test_accuracy"], "kd")


@quickly
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--methods", "ce", "--out", str(tmp_path)]
    assert torch_cifar100.main(arguments) == 0
    assert torch_cifar100.main([*arguments, "--resume", "--lr", "ce=0.02"]) == 2
    assert "is of another training" in capsys.readouterr().err
    assert torch_cifar100.main([*arguments, "--resume", "--batch-size", "32"]) == 2
    assert "batch_size was 64 and is 32" in capsys.readouterr().err


@quickly
def test_a_damaged_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--methods", "ce", "--out", str(tmp_path)]
    assert torch_cifar100.main(arguments) == 0
    path = tmp_path / "seed0" / "ce" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:500])
    assert torch_cifar100.main([*arguments, "--resume"]) == 2
    assert f"{path} is no readable checkpoint" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--methods", "ce", "--lr", "ce=1e18", "--out", str(tmp_path)]
    assert torch_cifar100.main(arguments) == 2
    error = capsys.readouterr().err
    assert "seed 0 ce: the loss is nan in epoch 1" in error
    assert "Try a smaller rate: --lr ce=" in error
    assert not (tmp_path / "seed0" / "ce" / "checkpoint.pt").exists()


@quickly
def test_a_loss_that_breaks_later_leaves_a_checkpoint_to_resume_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*SMALL, "--methods", "mcld"]
    broken = [*arguments, "--out", str(tmp_path / "broken")]
    original = torch_training.learning_rate
    with monkeypatch.context() as patch:  # of the student's second epoch: the teacher has one
        patch.setattr(
            torch_training,
            "learning_rate",
            lambda schedule, base, done: 1e18 if done else original(schedule, base, done),
        )
        assert torch_cifar100.main(broken) == 2
    path = tmp_path / "broken" / "seed0" / "mcld" / "checkpoint.pt"
    error = capsys.readouterr().err
    assert "seed 0 mcld: the loss is nan in epoch 2" in error
    assert f"The last good checkpoint is {path} (epoch 1)" in error
    assert all(value.isfinite().all() for value in torch_checkpoints.load(path)["model"].values())
    assert torch_cifar100.main([*broken, "--resume"]) == 0
    assert torch_cifar100.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    assert_equal_weights(tmp_path / "broken/seed0/mcld", tmp_path / "whole/seed0/mcld")


@quickly
def test_a_full_disk_stops_the_run_and_a_freed_one_resumes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*SMALL, "--methods", "ce"]
    out = tmp_path / "full"
    path = out / "seed0" / "ce" / "checkpoint.pt"
    before: list[bytes] = []
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if path.exists():  # from the student's second epoch on
            before.append(path.read_bytes())
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert torch_cifar100.main([*arguments, "--out", str(out)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert path.read_bytes() == before[0]
    assert not list(tmp_path.rglob("*.tmp"))
    assert torch_cifar100.main([*arguments, "--out", str(out), "--resume"]) == 0
    assert torch_cifar100.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    assert_equal_weights(out / "seed0" / "ce", tmp_path / "whole" / "seed0" / "ce")


@quickly
def test_the_rate_is_chosen_on_the_validation_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--methods", "ce", "--tune-lr", "--lr-grid", "1e-6", "0.1", "50"]
    assert torch_cifar100.main([*arguments, "--tune-seeds", "5", "--out", str(tmp_path)]) == 0
    assert "chosen on the validation split: ce=0.1" in capsys.readouterr().out
    scores = json.loads((tmp_path / "tuning.json").read_text())["validation"]["ce"]
    assert scores["0.1"] > scores["1e-06"]
    assert json.loads((tmp_path / "results.json").read_text())[1]["lr"] == 0.1


@quickly
def test_a_teacher_is_loaded_from_a_checkpoint_unchanged(tmp_path: Path) -> None:
    one = tmp_path / "one"
    assert torch_cifar100.main([*SMALL, "--methods", "kd", "--out", str(one)]) == 0
    teacher = one / "seed0" / "teacher" / "last.pt"
    arguments = [*SMALL, "--methods", "kd", "--teacher-checkpoint", str(teacher)]
    assert torch_cifar100.main([*arguments, "--out", str(tmp_path / "two")]) == 0
    assert_equal_weights(one / "seed0" / "kd", tmp_path / "two" / "seed0" / "kd")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "resnet19"], "unknown model 'resnet19'; known: mlp-WIDTH"),
        (["--dataset", "cifar100", "--data-dir", "nowhere"], "does not exist; pass --data-dir"),
        (["--teacher-checkpoint", "nowhere.pt"], "nowhere.pt does not exist"),
    ],
)
def test_mistakes_are_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert torch_cifar100.main([*SMALL, *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


@quickly
def test_the_teacher_s_answers_are_kept_and_used_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*SMALL, "--methods", "mcld", "--bank-size", "all"]
    cached = [*arguments, "--teacher-cache", str(tmp_path / "cache")]
    assert torch_cifar100.main([*arguments, "--out", str(tmp_path / "plain")]) == 0
    assert torch_cifar100.main([*cached, "--out", str(tmp_path / "cached")]) == 0
    (path,) = (tmp_path / "cache").iterdir()
    with monkeypatch.context() as patch:  # the second time the teacher has nothing to compute

        def refuse(*_: Any) -> None:
            raise AssertionError

        patch.setattr("recipes.torch_teacher.predict", refuse)
        assert torch_cifar100.main([*cached, "--out", str(tmp_path / "again")]) == 0
    for run in ("cached", "again"):
        assert_equal_weights(tmp_path / "plain/seed0/mcld", tmp_path / run / "seed0/mcld")
    path.write_bytes(path.read_bytes()[:1000])
    assert torch_cifar100.main([*cached, "--out", str(tmp_path / "damaged")]) == 2
    assert "complete teacher cache" in capsys.readouterr().err


@quickly
def test_mixed_precision_trains(tmp_path: Path) -> None:
    arguments = [*SMALL, "--teacher-epochs", "6", "--student", "mlp-16", "--epochs", "8"]
    arguments += ["--methods", "mcld", "--amp", "bf16"]
    assert torch_cifar100.main([*arguments, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "results.json").read_text())[1]
    assert record["test_last"] > 0.7
    assert {value.dtype for value in weights(tmp_path / "seed0" / "mcld").values()} == {
        torch.float32
    }

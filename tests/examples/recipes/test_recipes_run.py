"""What a training says: lines and bars, the time that is left, the best epoch, TensorBoard."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import recipes
from recipes import run, teachers, watching
from recipes.configs import parse_options
from recipes.data import Dataset, Split
from recipes.options import build_parser
from recipes.run import Run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(watching.time, "monotonic", lambda: self.now)


def row(epoch: int) -> run.Row:
    return {"epoch": epoch, "loss": 0.5, "train_accuracy": 0.25, "test_accuracy": 0.75}


def test_a_log_file_gets_a_line_in_n_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, asked = Clock(monkeypatch), []

    def loss() -> float:
        asked.append(clock.now)
        return 1.5

    with watching.Progress("mlp by kd", steps=100, seconds=30) as progress:
        for step in range(1, 101):
            clock.now = float(step)
            progress.step(loss)
            if step % 10 == 0:
                progress.epoch(row(step // 10), 10)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mlp by kd epoch 1/10  loss 0.5000  train 25.00%  test 75.00%  1m30s left"
    assert lines[1] == "mlp by kd step 40/100  loss 1.5000  1m00s left"
    assert lines[-1] == "mlp by kd epoch 10/10  loss 0.5000  train 25.00%  test 75.00%  1m40s"
    assert len(lines) == 5
    assert len(asked) == 3  # each look waits for the device


def test_the_time_left_of_a_resumed_run_is_by_its_own_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    progress = watching.Progress("x", steps=100, done=80)
    for _ in range(10):
        clock.now += 2
        progress.step()
    assert progress.left() == "20s left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5s"), (65, "1m05s"), (3599.6, "1h00m"), (3 * 3600 + 61, "3h01m")]
)
def test_times_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert watching.duration(seconds) == text


def test_at_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with watching.Progress("mlp by kd", steps=4, seconds=0) as progress:
        for _ in range(4):
            progress.step(lambda: 0.5)
    assert "mlp by kd" in terminal.getvalue()
    assert "loss 0.5000" in terminal.getvalue()


def task(kind: str, index: int, **cluster: list[str]) -> str:
    return json.dumps(
        {"cluster": {"worker": ["a", "b"]} | cluster, "task": {"type": kind, "index": index}}
    )


@pytest.mark.parametrize(
    ("name", "first", "other"),
    [
        ("RANK", "0", "1"),
        ("JAX_PROCESS_ID", "0", "1"),
        ("KERAS_DISTRIBUTION_PROCESS_ID", "0", "1"),
        ("TF_CONFIG", task("worker", 0), task("worker", 1)),
        ("TF_CONFIG", task("chief", 0, chief=["c"]), task("worker", 0, chief=["c"])),
    ],
)
def test_one_process_of_several_speaks(
    name: str, first: str, other: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for value, is_first in ((first, True), (other, False)):
        monkeypatch.setenv(name, value)
        assert recipes.is_first() == is_first
        recipes.say("words")
        with watching.Progress("x", steps=1, seconds=0) as progress:
            progress.step()
            progress.epoch(row(1), 1)
        assert bool(capsys.readouterr().out) == is_first


def test_choices_rest_on_the_balanced_accuracy_where_it_is_trained_for() -> None:
    rows = [{"epoch": n, "validation_accuracy": x, "validation_balanced_accuracy": 1 - x}
            for n, x in enumerate((0.5, 0.6))]  # fmt: skip
    assert run.best_row(rows) is rows[0]


def test_the_best_epoch_is_the_first_of_equals() -> None:
    rows = [{"epoch": n, "validation_accuracy": value} for n, value in enumerate((0.5, 0.6, 0.6))]
    assert run.best_row(rows) is rows[1]
    assert run.best_row([{"epoch": 1, "test_accuracy": 0.5}]) is None
    assert run.best_row([]) is None


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_names_the_place_and_the_remedy(loss: float) -> None:
    options = parse_options(build_parser(""), ["--student", "mlp", "--out", "run", "--lr", "0.03"])
    training, path = Run(options, None, None, 0, 8), Path("run/checkpoint.npz")
    training.epoch = 2
    training.sums = {"loss": 1.0}
    training.check()
    training.sums = {"loss": loss}
    with pytest.raises(run.Diverged) as caught:
        training.check()
    assert str(caught.value) == (
        f"mlp by mcld: the loss is {loss} in epoch 3. The last good checkpoint is {path} "
        "(epoch 2). Try a smaller rate: --lr 0.01"
    )
    training.epoch = 0
    with pytest.raises(run.Diverged, match=r"in epoch 1\. Try a smaller rate: --lr 0.01"):
        training.check()


def test_a_poor_teacher_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """Of ten classes: below 20 % on one of the splits."""
    options = parse_options(build_parser(""), ["--teacher", "large"])
    split = Split(np.zeros((100, 1, 1, 1), np.uint8), np.arange(100) % 10)
    data = Dataset("x", "0123456789", split, split.take(np.arange(50)), split, (0.0,), (1.0,))
    training = Run(options, data, None, 0, 1)

    def right(part: Split, count: int) -> np.ndarray:
        """Return logits of which so many in a hundred are right."""
        shown = np.where(np.arange(len(part)) % 50 < count // 2, part.labels, part.labels + 1)
        return np.eye(11)[shown]

    teachers.measure(training, lambda part: right(part, 22))
    assert capsys.readouterr().out == "teacher large: validation 22.00%, test 22.00%\n"
    assert training.teacher_accuracy == 0.22
    assert training.teacher_logits is not None
    assert len(training.teacher_logits()) == 100
    teachers.measure(training, lambda part: right(part, 18 if len(part) == 50 else 22))
    assert "warning: the teacher is hardly better than chance (10%)" in capsys.readouterr().out


class Sent(ModuleType):
    """A tracker's package that remembers what it is given."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments, named))
            return self

        return call


@pytest.mark.parametrize(
    ("track", "calls"),
    [
        ("wandb", ["init", "log", "finish"]),
        ("mlflow", ["start_run", "log_params", "log_metrics", "end_run"]),
    ],
)
def test_a_tracker_gets_the_options_and_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, track: str, calls: list[str]
) -> None:
    package = Sent(track)
    monkeypatch.setitem(sys.modules, track, package)
    options = parse_options(build_parser(""), ["--track", track, "--out", str(tmp_path)])
    training = Run(options, None, None, 0, 8)
    with training.watch(lambda: None):
        training.rows.append(row(1))
        training.write_rows()
    assert [name for name, *_ in package.calls] == calls
    sent = next(entry for entry in package.calls if entry[0] in ("log", "log_metrics"))
    assert sent[1][0]["test_accuracy"] == 0.75
    assert sent[2] == {"step": 1}
    assert re.match("epoch,loss", (tmp_path / "log.csv").read_text())

"""What a training says and leaves while it runs, and how it ends.

One row an evaluated epoch goes to log.csv, to TensorBoard and to a tracker; a person at a terminal
sees a bar, and a log file a line every ``seconds``, each with the time that is left.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from .files import write_text

Row = dict[str, Any]
"""``epoch``, ``lr``, ``loss``, ``train_accuracy``, ``validation_accuracy`` (where there is such a
split), ``test_accuracy``, ``seconds``; accuracies are parts of 1."""


@dataclass(frozen=True)
class Result:
    """What ``train(options)`` of every script returns.

    ``model`` is the framework's own, with the weights of the last epoch. ``test_logits()`` are its
    (rows, classes) on the test split, in float32. ``rows`` is empty where nothing was trained.
    """

    name: str
    folder: Path
    rows: list[Row]
    parameters: int
    model: Any
    test_logits: Callable[[], np.ndarray]
    teacher_accuracy: float | None = None
    """On the test split."""
    teacher_logits: Callable[[], np.ndarray] | None = None
    """Like ``test_logits``; both None where there was no teacher."""

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.name}: nothing trained"
        last, best = self.rows[-1], best_row(self.rows)
        text = f"test {100 * last['test_accuracy']:.2f}% after epoch {last['epoch']}"
        if "test_balanced_accuracy" in last:
            text += f" ({100 * last['test_balanced_accuracy']:.2f}% balanced)"
        if best is not None:
            text += f"; best by validation: epoch {best['epoch']}, "
            text += f"{100 * best['test_accuracy']:.2f}%"
        if self.teacher_accuracy is not None:
            text += f"; teacher {100 * self.teacher_accuracy:.2f}%"
        return f"{self.name}: {text}. Files: {self.folder}"


def best_row(rows: Sequence[Any]) -> Any:
    """Return the first row of the best `validation_score`; None without a validation split."""
    if not rows or "validation_accuracy" not in rows[0]:
        return None
    return max(rows, key=lambda row: (validation_score(row), -row["epoch"]))


def validation_score(row: Row) -> float:
    """Return what choices rest on: the validation accuracy, balanced where that is trained for."""
    return float(row.get("validation_balanced_accuracy", row["validation_accuracy"]))


# ---- ends ----


class Diverged(RuntimeError):
    """The loss became NaN or infinite; the message says where and what to do."""


class Stopped(RuntimeError):
    """The user stopped the run, and its state is saved; the message says where."""


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a flag that the training loop reads between two steps.

    So a step is never cut in half; a second signal acts at once.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopSignal:
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._request) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        say("stopping once the state is saved; once more to stop at once", important=True)


# ---- words ----


def is_first() -> bool:
    """Whether this is the process that writes and speaks, by the variables of its launcher."""
    for name in ("RANK", "JAX_PROCESS_ID", "KERAS_DISTRIBUTION_PROCESS_ID"):
        if name in os.environ:
            return int(os.environ[name]) == 0
    config = json.loads(os.environ.get("TF_CONFIG", "{}"))
    task, has_chief = config.get("task", {}), "chief" in config.get("cluster", {})
    return int(task.get("index", 0)) == 0 and (task.get("type") == "chief" or not has_chief)


line: Any = None
"""Stands in for all that is said, while it is open: a `benchmarks.comparison.line.Line`."""


def say(text: str, *, important: bool = False) -> None:
    """Print a line without tearing a progress bar; with a `line` open, on or above that.

    One of several processes does.
    """
    if not is_first():
        return
    if line is not None:
        (line.above if important else line.add)(text)
    elif sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(text)
    else:
        print(text, flush=True)


def say_teacher(name: str, accuracies: Mapping[str, float], classes: int) -> None:
    """Print the teacher's accuracy by split; warn below twice what chance gives.

    A teacher that knows little is most often one whose normalisation or classes are others.
    """
    numbers = ", ".join(f"{split} {100 * value:.2f}%" for split, value in accuracies.items())
    say(f"teacher {name}: {numbers}")
    if min(accuracies.values(), default=1.0) < 2 / classes:
        say(
            f"warning: the teacher is hardly better than chance ({100 / classes:.2g}%): are its "
            "normalisation (--teacher-mean, --teacher-std), its classes (--teacher-classes) and "
            "its weights (--teacher-weights) right?",
            important=True,
        )


def duration(seconds: float) -> str:
    """Return a time as ``1h02m``, ``3m07s`` or ``12s``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


class Progress:
    """Says how far a training is: a bar at a terminal, else a line every ``seconds``.

    Args:
        name: of the training.
        steps: all steps of the training.
        done: those that an earlier process did.
        seconds: between two lines; at a terminal every epoch has one.
    """

    def __init__(self, name: str, steps: int, done: int = 0, *, seconds: float = 30.0) -> None:
        self.name, self.steps, self.seconds, self.quiet = name, steps, seconds, not is_first()
        self.first = self.done = done
        self.started = self.said = time.monotonic()
        self.bar: Any = None
        if line is not None:
            self.seconds = min(seconds, 0.2)  # the line says when it prints
        elif sys.stderr.isatty() and not self.quiet:
            from tqdm import tqdm

            self.bar = tqdm(total=steps, desc=name, initial=done, leave=False, unit="step")

    def step(self, loss: Callable[[], float] | None = None) -> None:
        """Count a step; ``loss()`` is asked for only where it is shown: it waits for the device."""
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        if self.quiet or time.monotonic() - self.said < self.seconds:
            return
        self.said = time.monotonic()
        shown = f"  loss {loss():.4f}" if loss is not None else ""
        if self.bar is not None:
            self.bar.set_postfix_str(shown.strip())
        else:
            say(f"{self.name} step {self.done}/{self.steps}{shown}  {self.left()}")

    def epoch(self, row: Row, epochs: int) -> None:
        """Print the numbers of an epoch, if it is time for a line or the last one."""
        due = self.bar is not None or time.monotonic() - self.said >= self.seconds
        if self.quiet or not (due or row["epoch"] in (1, epochs)):
            return
        self.said = time.monotonic()
        parts = [f"{self.name} epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.4f}"]
        shown = [key for key in row if key.endswith("_accuracy")]
        parts += [f"{key.removesuffix('_accuracy')} {100 * row[key]:.2f}%" for key in shown]
        say("  ".join([*parts, self.left()]))

    def left(self) -> str:
        """Return how long the rest will take, by the pace of this process."""
        spent, steps = time.monotonic() - self.started, self.done - self.first
        if self.done >= self.steps or not steps:
            return f"{duration(spent)}"
        return f"{duration(spent / steps * (self.steps - self.done))} left"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


# ---- numbers ----


class Log:
    """The history of a training in its folder: log.csv, TensorBoard's events, a tracker's run.

    Args:
        name: of the run, for the tracker.
        options: ``out``, ``tensorboard``, ``track``, and what the tracker notes.
        writes: False: do nothing (of a run that is done); so do processes after the first.
    """

    def __init__(self, name: str, options: argparse.Namespace, *, writes: bool = True) -> None:
        self.folder = options.out if writes and is_first() else None
        self.sinks: list[Any] = []
        if self.folder is not None and (options.tensorboard or options.track):
            from .trackers import open_sinks

            self.sinks = open_sinks(name, options)

    def write(self, rows: Sequence[Row]) -> None:
        """Write all rows to log.csv (whole, so that a resumed run repeats none), send the last."""
        if self.folder is None:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / "log.csv", text.getvalue())
        for sink in self.sinks:
            sink.add(rows[-1])

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the files and the tracker's run."""
        for sink in self.sinks:
            sink.close()

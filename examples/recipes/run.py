"""One training: where it is, what it has come to, and how it ends; the same in every framework.

A script's loop tells its `Run` of each step and each epoch. The run adds the epoch up, shows how
far it is, looks whether the loss is finite, hears Ctrl-C, has the state saved, and leaves a row for
each evaluated epoch in log.csv, in TensorBoard's files and at a tracker.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from . import is_first, say
from .files import write_text

CHECK_EVERY = 50
"""Steps between two looks at the loss and at other processes: each look waits for the device."""

Row = dict[str, Any]
"""``epoch``, ``lr``, ``loss``, ``train_accuracy``, ``validation_accuracy`` (where there is such a
split), ``test_accuracy``, ``seconds``; accuracies are parts of 1."""


def best_row(rows: Sequence[Any]) -> Any:
    """Return the first row of the best `validation_score`; None without a validation split."""
    if not rows or "validation_accuracy" not in rows[0]:
        return None
    return max(rows, key=lambda row: (validation_score(row), -row["epoch"]))


def validation_score(row: Row) -> float:
    """Return what choices rest on: the validation accuracy, balanced where that is trained for."""
    return float(row.get("validation_balanced_accuracy", row["validation_accuracy"]))


class Diverged(RuntimeError):
    """The loss became NaN or infinite; the message says where and what to do."""


class Stopped(RuntimeError):
    """The user stopped the run, and its state is saved; the message says where."""


class Processes:
    """The processes that train together; here one. Each framework has its own way for several."""

    alone = True
    devices = 1
    """That share a batch."""

    def share(self, count: int) -> Any:
        """Return which of the ``count`` rows of a batch this process reads."""
        return slice(None)

    def total(self, value: Any) -> Any:
        """Return the sum over the processes, where each has its own; every process asks."""
        return value

    def any(self, flag: bool) -> bool:
        """Return whether any process says so; every process asks, and waits."""
        return flag


class Run:
    """One training of a script, and what its ``train`` returns.

    Args:
        options: of the script.
        data: what it trains on.
        model: the student, the framework's own; in the end with the weights of the last epoch.
        size: the number of its parameters.
        steps: of an epoch.
        file: the name of the checkpoint.
        processes: that train together.
    """

    test_logits: Callable[[], np.ndarray]
    """Returns the model's (rows, classes) on the test split, in float32."""
    teacher_logits: Callable[[], np.ndarray] | None = None
    """Like ``test_logits``; None where there is no teacher."""
    teacher_accuracy: float | None = None
    """On the test split."""

    def __init__(
        self, options: argparse.Namespace, data: Any, model: Any, size: int, steps: int,
        file: str = "checkpoint.npz", processes: Processes | None = None,
    ) -> None:  # fmt: skip
        self.options, self.data, self.model = options, data, model
        self.parameters, self.steps, self.processes = size, steps, processes or Processes()
        self.folder, self.checkpoint = options.out, options.out / file
        self.name = f"{options.student} by {options.method}"
        self.epoch = self.step = 0
        """Whole epochs, and steps of the running one, that are done."""
        self.rows: list[Row] = []
        """One an evaluated epoch; none where nothing was trained."""
        self.sums: dict[str, Any] = {}
        """Over the running epoch: ``rows``, ``loss``, ``train_accuracy`` …"""

    # ---- the start ----

    def begins(self) -> bool:
        """Check the run's folder and the disk; return whether to train: not in a dry run.

        Raises:
            DataError: as `folder.begin` says.
        """
        from .folder import begin

        begin(self.options, needed=32 * self.parameters)  # bytes: checkpoint, best and last model
        if self.options.dry_run:
            size = f"{self.parameters:,} parameters"
            say(f"dry run: {self.name}, {size}, would go to {self.folder}")
        return not self.options.dry_run

    # ---- what a checkpoint holds of it ----

    @property
    def resumes(self) -> bool:
        """Whether there is a checkpoint to go on from, and the user asks for it."""
        return bool(self.options.resume and self.checkpoint.exists())

    def notes(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as JSON can; every process has to ask."""
        sums = {key: float(self.processes.total(value)) for key, value in self.sums.items()}
        return {"epoch": self.epoch, "step": self.step, "rows": self.rows, "sums": sums}

    def restore(self, notes: Mapping[str, Any]) -> None:
        """Go back to where the notes were taken."""
        for name in ("epoch", "step", "rows", "sums"):
            setattr(self, name, notes[name])
        say(f"{self.name}: resumed after epoch {self.epoch}/{self.options.epochs}")

    # ---- the loop ----

    def watch(self, save: Callable[[], Any]) -> AbstractContextManager[Any]:
        """Return what stands around the loop; ``save()``, of every process, writes a checkpoint."""
        from .watching import Watcher

        self.save, done = save, self.epoch * self.steps + self.step
        self.watcher = Watcher(self.name, self.options, self.options.epochs * self.steps, done)
        return self.watcher

    @property
    def running(self) -> bool:
        """Whether there are epochs left."""
        return bool(self.epoch < self.options.epochs)

    @property
    def done(self) -> float:
        """The part of the training that is done, from 0 to 1."""
        return float((self.epoch * self.steps + self.step) / (self.options.epochs * self.steps))

    def begin_epoch(self, falls: Sequence[float] = (0.625, 0.75, 0.875)) -> float:
        """Start the clock of an epoch; return its rate.

        It grows over ``--warmup``. By the schedule ``cosine`` it then falls to 0; ``step``
        multiplies it by 0.1 at ``falls``, parts of the training.
        """
        self.started = time.perf_counter()
        options, done = self.options, self.epoch / self.options.epochs
        if self.epoch < options.warmup:
            part = (self.epoch + 1) / (options.warmup + 1)
        elif options.schedule == "cosine":
            part = 0.5 * (1 + math.cos(math.pi * done))
        else:
            part = 0.1 ** sum(done >= fall for fall in falls)
        self.rate = float(options.lr * part)
        return self.rate

    def add(self, sums: Mapping[str, Any]) -> None:
        """Count a step, and add its sums to those of the epoch.

        Raises:
            Diverged: the loss is not finite.
            Stopped: the user asks for it, and the state is saved.
        """
        for key, value in sums.items():
            self.sums[key] = value + self.sums[key] if key in self.sums else value
        self.step += 1
        self.watcher.progress.step(lambda: float(self.sums["loss"] / self.sums["rows"]))
        last = self.step == self.steps
        due = last or self.step % CHECK_EVERY == 0
        asks = not last and (due or self.processes.alone)
        stops = asks and self.processes.any(self.watcher.asked_to_stop)
        if due or stops:
            self.check()
        if stops:
            self.save()
            raise self.stopped(f"in epoch {self.epoch + 1}", f" after step {self.step}")

    def check(self) -> None:
        """Raise `Diverged` where the loss of the running epoch is not finite; all processes ask."""
        loss = float(self.processes.total(self.sums["loss"]))
        if math.isfinite(loss):
            return
        kept = f" The last good checkpoint is {self.checkpoint} (epoch {self.epoch})."
        raise Diverged(
            f"{self.name}: the loss is {loss} in epoch {self.epoch + 1}.{kept * bool(self.epoch)} "
            f"Try a smaller rate: --lr {self.options.lr / 3:.2g}"
        )

    def end_epoch(self, evaluate: Callable[[], Row], keep: Callable[[str], Any]) -> None:
        """Count an epoch, evaluate it if that is due, and save.

        Args:
            evaluate: returns the accuracies, and what else a row is to hold.
            keep: writes the model alone, as ``best`` (by validation) or ``last``; called by the
                first process.

        Raises:
            Stopped: the user asks for it, and the state is saved.
        """
        self.epoch, self.step = self.epoch + 1, 0
        if self.epoch % self.options.eval_every == 0 or not self.running:
            sums = {key: float(self.processes.total(value)) for key, value in self.sums.items()}
            row: Row = {"epoch": self.epoch, "lr": self.rate}
            row |= {key: value / sums["rows"] for key, value in sums.items() if key != "rows"}
            row |= evaluate()
            self.rows.append(row | {"seconds": time.perf_counter() - self.started})
            self.watcher.progress.epoch(self.rows[-1], self.options.epochs)
            if is_first():
                self.write_rows()
                if best_row(self.rows) is self.rows[-1]:
                    keep("best")
                if not self.running:
                    keep("last")
        self.sums = {}
        self.save()
        if self.processes.any(self.watcher.asked_to_stop):
            raise self.stopped(f"after epoch {self.epoch}")

    def write_rows(self) -> None:
        """Write all rows to log.csv (whole, so that a resumed run repeats none), send the last."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / "log.csv", text.getvalue())
        for sink in self.watcher.sinks:
            sink.add(self.rows[-1])

    def stopped(self, where: str, step: str = "") -> Stopped:
        """Return what to raise when the state is saved."""
        place = f"{where}/{self.options.epochs}{step}"
        return Stopped(f"{self.name} stopped {place}; the state is saved in {self.folder}")

    # ---- the end ----

    def describe(self, **more: Any) -> dict[str, Any]:
        """Return what a checkpoint or ONNX file says of its model; JSON can hold it.

        ``more`` is ``layout``, and what else there is to say.
        """
        options, data, last = self.options, self.data, self.rows[-1]
        notes = {
            "model": options.student,
            "classes": list(data.class_names),
            "image_shape": list(data.image_shape),
            "dataset": data.name,
            "normalization": {"mean": list(data.mean), "std": list(data.std)},
            "method": options.method,
            "teacher": None if options.method == "ce" else " + ".join(options.teacher),
            "epoch": last["epoch"],
            "accuracy": last["test_accuracy"],
        }
        return notes | more

    @property
    def exports(self) -> bool:
        """Whether this process writes the trained student as an ONNX file now."""
        wanted = is_first() and bool(self.rows) and self.options.onnx
        return wanted and not (self.folder / "student.onnx").exists()

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

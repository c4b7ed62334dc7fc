"""Where a training is, what it has come to, and when it stops: the same in every framework.

A script's loop tells the journal of each step and of each epoch. The journal adds up the running
epoch, shows how far the training is, looks whether the loss is finite, hears Ctrl-C, and leaves a
row for each evaluated epoch in log.csv. What a checkpoint holds of it are its `notes`.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .data import Dataset, Split, accuracies
from .files import DataError, begin, check_space
from .logs import (
    Diverged,
    Log,
    Progress,
    Result,
    Row,
    Stopped,
    StopSignal,
    best_row,
    is_first,
    say,
    say_teacher,
)

CHECK_EVERY = 50
"""Steps between two looks at the loss and at other processes: each look waits for the device."""

FALLS = (0.625, 0.75, 0.875)
"""Parts of the training after which the schedule ``step`` multiplies the rate by 0.1."""


class Journal:
    """The course of one training; ``with journal:`` stands around its loop.

    Args:
        options: of the run.
        steps: of an epoch.
        file: the name of the checkpoint.
        total: adds a number up over the processes, where the sums are each one's own.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        steps: int,
        file: str = "checkpoint.npz",
        total: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self.checkpoint = options.out / file
        self.name = f"{options.student} by {options.method}"
        self.options, self.steps, self.total = options, steps, total
        self.epoch = self.step = 0
        """Whole epochs, and steps of the running one, that are done."""
        self.rows: list[Row] = []
        self.sums: dict[str, Any] = {}
        """Over the running epoch: ``rows``, ``loss``, ``train_accuracy`` …"""

    def notes(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as JSON can; every process has to ask."""
        sums = {key: float(self.total(value)) for key, value in self.sums.items()}
        return {"epoch": self.epoch, "step": self.step, "rows": self.rows, "sums": sums}

    def restore(self, notes: Mapping[str, Any]) -> None:
        """Go back to where the notes were taken."""
        for name in ("epoch", "step", "rows", "sums"):
            setattr(self, name, notes[name])
        say(f"{self.name}: resumed after epoch {self.epoch}/{self.options.epochs}")

    def begins(self, parameters: int) -> bool:
        """Check the run's folder and the disk; return whether to train: not in a dry run.

        Raises:
            DataError: as `files.check_space` and `begin` say.
        """
        out, dry = self.options.out, self.options.dry_run
        check_space(out, 32 * parameters)  # bytes: checkpoint, the best and the last model
        begin(self.options, writes=not dry and is_first())
        if dry:
            say(f"dry run: {self.name}, {parameters:,} parameters, would go to {out}")
        return not dry

    @property
    def resumes(self) -> bool:
        """Whether there is a checkpoint to go on from, and the user asks for it."""
        return bool(self.options.resume and self.checkpoint.exists())

    def __enter__(self) -> Journal:
        epochs, done = self.options.epochs, self.epoch * self.steps + self.step
        with ExitStack() as stack:
            log = Log(self.name, self.options, writes=self.epoch < epochs)
            seconds = self.options.log_seconds
            progress = Progress(self.name, epochs * self.steps, done, seconds=seconds)
            self.stop = stack.enter_context(StopSignal())
            self.progress, self.log = map(stack.enter_context, (progress, log))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Finish bar and files, and give the signals back."""
        self._open.close()

    @property
    def exports(self) -> bool:
        """Whether this process writes the trained student as an ONNX file now."""
        wanted = is_first() and bool(self.rows) and self.options.onnx
        return wanted and not (self.options.out / "student.onnx").exists()

    @property
    def running(self) -> bool:
        """Whether there are epochs left."""
        return bool(self.epoch < self.options.epochs)

    @property
    def done(self) -> float:
        """The part of the training that is done, from 0 to 1."""
        return float((self.epoch * self.steps + self.step) / (self.options.epochs * self.steps))

    def stopped(self) -> Stopped:
        """Return what to raise when the user stopped the training, once its state is saved."""
        epochs = self.options.epochs
        if self.step:
            where = f"in epoch {self.epoch + 1}/{epochs} after step {self.step}"
        else:
            where = f"after epoch {self.epoch}/{epochs}"
        return Stopped(f"{self.name} stopped {where}; the state is saved in {self.options.out}")

    def result(
        self, parameters: int, model: Any, test_logits: Callable[[], Any], teacher: Any = None
    ) -> Result:
        """Return what ``train`` of a script does; ``teacher``: its accuracy and test logits."""
        taught = () if teacher is None else (teacher.accuracy, teacher.test_logits)
        known = (self.name, self.options.out, self.rows, parameters, model, test_logits)
        return Result(*known, *taught)

    def describe(self, data: Any, **more: Any) -> dict[str, Any]:
        """Return what a checkpoint or ONNX file says of its model; JSON can hold it.

        Args:
            data: its name, classes, image shape and normalisation.
            more: ``layout``, and what else there is to say.
        """
        options, last = self.options, self.rows[-1]
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

    # ---- a step ----

    def add(
        self, added: Mapping[str, Any], asks: Callable[[bool], bool], alone: bool = True
    ) -> bool:
        """Add to the sums and count a step; return whether to save and stop within the epoch.

        Args:
            added: to the sums.
            asks: from whether this process was told to stop to whether any was.
            alone: there are no other processes to wait for: ask after each step.

        Raises:
            Diverged: the loss is not finite.
        """
        for key, value in added.items():
            self.sums[key] = value + self.sums[key] if key in self.sums else value
        self.step += 1
        self.progress.step(lambda: float(self.sums["loss"] / self.sums["rows"]))
        due = self.step % CHECK_EVERY == 0 or self.step == self.steps
        stopping = self.step < self.steps and (due or alone) and asks(self.stop.requested)
        if due or stopping:
            self.check()
        return stopping

    def check(self) -> None:
        """Raise `Diverged` where the loss of the running epoch is not finite; all processes ask."""
        loss = float(self.total(self.sums["loss"]))
        if math.isfinite(loss):
            return
        kept = f" The last good checkpoint is {self.checkpoint} (epoch {self.epoch})."
        raise Diverged(
            f"{self.name}: the loss is {loss} in epoch {self.epoch + 1}.{kept * bool(self.epoch)} "
            f"Try a smaller rate: --lr {self.options.lr / 3:.2g}"
        )

    # ---- an epoch ----

    def begin_epoch(self, falls: Sequence[float] = FALLS) -> float:
        """Start the clock of an epoch; return its rate."""
        self.started = time.perf_counter()
        self.rate = learning_rate(self.options, self.epoch, falls)
        return self.rate

    def end_epoch(self, evaluate: Callable[[], Row]) -> bool:
        """Count an epoch; return whether it was evaluated: it then has a row, the last one.

        The row has the sums for each training row, and the accuracies that ``evaluate`` returns.
        """
        self.epoch, self.step = self.epoch + 1, 0
        due = self.epoch % self.options.eval_every == 0 or not self.running
        if due:
            sums = {key: float(self.total(value)) for key, value in self.sums.items()}
            row: Row = {"epoch": self.epoch, "lr": self.rate}
            row |= {key: value / sums["rows"] for key, value in sums.items() if key != "rows"}
            row |= evaluate()
            self.rows.append(row | {"seconds": time.perf_counter() - self.started})
            self.progress.epoch(self.rows[-1], self.options.epochs)
            self.log.write(self.rows)
        self.sums = {}
        return due

    def kept(self) -> list[str]:
        """Return the names under which this process keeps the model of the last row.

        ``best`` by validation, ``last`` after the last epoch; of several processes the first one.
        """
        kept = ["best"] if best_row(self.rows) is self.rows[-1] else []
        return [*kept, *(["last"] if not self.running else [])] if is_first() else []


def learning_rate(options: argparse.Namespace, epoch: int, falls: Sequence[float] = FALLS) -> float:
    """Return the rate of an epoch, counted from 0: warm-up, then the schedule.

    ``cosine`` falls from ``lr`` to 0; ``step`` multiplies by 0.1 at ``falls``, parts of the
    training.
    """
    if epoch < options.warmup:
        return float(options.lr * (epoch + 1) / (options.warmup + 1))
    done = epoch / options.epochs
    if options.schedule == "cosine":
        return float(options.lr * 0.5 * (1 + math.cos(math.pi * done)))
    return float(options.lr * 0.1 ** sum(done >= part for part in falls))


# ---- the teacher's accuracy, and the end ----


def measure(
    options: argparse.Namespace, data: Dataset, logits_of: Callable[[Split], NDArray[Any]]
) -> float:
    """Return the teacher's accuracy on the test split, and print it: a bad teacher is seen at once.

    Raises:
        DataError: the teacher cannot take these images.
    """
    name = " + ".join(options.teacher)
    try:
        found = accuracies(logits_of, data)
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"--teacher {name}: it cannot answer images of {data.image_shape}, scaled to "
            f"--teacher-size {options.teacher_size}: {reason}"
        ) from error
    say_teacher(name, {key.split("_")[0]: value for key, value in found.items()}, data.classes)
    return found["test_accuracy"]


SHOWN = 64
"""Test images that the export looks at, and the batch whose latency is printed."""


def hand_over(
    options: argparse.Namespace,
    student: Any,
    teacher: Any,
    images: NDArray[Any],
    notes: dict[str, Any],
    exporter: str,
) -> None:
    """Write ``OUT/student.onnx``; print its size and its latency beside the teacher's.

    Does nothing but say what to install where a package is missing.

    Args:
        options: of the run.
        student: the framework's model, in evaluation mode.
        teacher: of the same framework; None: the student is compared with nothing.
        images: normalised test images, in the layout of the models.
        notes: what the file says of its model.
        exporter: the package that exports the framework's models.

    Raises:
        DataError: the student cannot be exported, and why; its checkpoints are untouched.
    """
    needed = ("onnx", "onnxruntime", exporter)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        text = f"no ONNX file: {', '.join(missing)} not installed; pip install {' '.join(needed)}"
        say(text, important=True)
        return
    from mcld_core.export import compare_latency, export_onnx

    def export(model: Any, path: Path, **more: Any) -> Any:
        try:
            return export_onnx(model, path, example_input=images, **more)
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            which = f"no ONNX file of the {path.stem}, trained and saved"
            raise DataError(f"{which}: {error}") from error

    path = options.out / "student.onnx"
    say(f"student: {export(student, path, metadata=notes)}", important=True)
    if teacher is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "teacher.onnx"
        try:
            export(teacher, other)
        except DataError as error:
            say(f"no latency of the teacher: {error}", important=True)
            return
        latency = compare_latency(path, other, images)
        say(f"a batch of {len(images)} on one thread: {latency}", important=True)

"""The loop of one training, for frameworks whose state is a set of named arrays.

Batches and augmentation depend on (seed, epoch, step) alone and the checkpoint holds everything
else (weights, statistics, moments, bank, sums of the running epoch), so a run that was killed and
resumed ends with the parameters of one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from . import npz
from .files import DataError
from .old_logs import Row, Scalars, StopSignal, epoch_line, progress_bar, say, show, write_csv
from .training import CHECK_EVERY, Job, validates_best

FILE = "checkpoint.npz"


class Learner(Protocol):
    """What a framework does in the loop."""

    steps: int
    """Batches an epoch."""

    def rate(self, done: float) -> float:
        """Return the learning rate of an epoch that starts when this part of the run is done."""
        ...

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield the batches of an epoch, from number ``start`` on."""
        ...

    def step(self, batch: Any, progress: float, rate: float) -> dict[str, Any]:
        """Train on a batch; return the sums over its rows of what is shown, and ``"rows"``."""
        ...

    def evaluate(self) -> Row:
        """Return the accuracies, ``"test_accuracy"`` among them, and perhaps validation's."""
        ...

    def model_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the model alone."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the whole state."""
        ...

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what `arrays` gave."""
        ...


class Loop:
    """One training: where it is, its history, and its files."""

    def __init__(
        self, job: Job, learner: Learner, notes: dict[str, Any], tensorboard: bool
    ) -> None:
        self.job, self.learner, self.notes = job, learner, notes
        self.tensorboard = tensorboard
        self.rows: list[Row] = []
        self.epoch = self.step = 0
        self.sums: dict[str, Any] = {}

    def run(self) -> list[Row]:
        """Train to the last epoch and return an epoch a row.

        Raises:
            Diverged: the loss is NaN or infinite.
            Stopped: Ctrl-C or SIGTERM, after the state was saved.
        """
        folder = self.job.folder
        scalars = None
        if folder is not None and self.tensorboard:
            scalars = Scalars(folder / "tensorboard")
        with StopSignal() as stop:
            while self.epoch < self.job.epochs:
                self._epoch(stop)
                if folder is not None:
                    say(epoch_line(self.job.name, self.rows[-1], self.job.epochs))
                    self._save_epoch(folder)
                if scalars is not None:
                    scalars.add(self.rows[-1])
                if stop.requested:  # after the last epoch, too: the next training cannot know
                    raise self.job.stopped(self.epoch, self.step)
        if scalars is not None:
            scalars.close()
        return self.rows

    def _epoch(self, stop: StopSignal) -> None:
        job, steps = self.job, self.learner.steps
        started = time.perf_counter()
        rate = self.learner.rate(self.epoch / job.epochs)
        batches = self.learner.batches(self.epoch, self.step)
        title = f"{job.name} {self.epoch + 1}/{job.epochs}"
        bar = progress_bar(batches, steps, title, self.step)
        for batch in bar:
            progress = (self.epoch * steps + self.step) / (job.epochs * steps)
            sums = self.learner.step(batch, progress, rate)
            self.sums = {key: self.sums[key] + x if self.sums else x for key, x in sums.items()}
            self.step += 1
            if self.step % CHECK_EVERY == 0:
                self._check_finite()
                show(bar, self.sums)
            if stop.requested:
                self._stop()
        if not self.sums:
            raise DataError(f"{job.name}: no training picture could be read")
        self._check_finite()
        sums = {key: float(value) for key, value in self.sums.items()}
        rows = sums.pop("rows")
        row: Row = {"epoch": self.epoch + 1, "lr": rate}
        row |= {key: value / rows for key, value in sums.items()}
        row |= self.learner.evaluate()
        row["seconds"] = time.perf_counter() - started
        self.rows.append(row)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}

    def _check_finite(self) -> None:
        self.job.check_finite(float(self.sums["loss"]), self.epoch, self.step, FILE)

    def _stop(self) -> None:
        self._check_finite()
        if self.job.folder is not None:
            self._save_checkpoint(self.job.folder)
        raise self.job.stopped(self.epoch, self.step)

    # ---- files ----

    def _save_epoch(self, folder: Path) -> None:
        notes = self.notes | {
            "name": self.job.model,
            "epoch": self.epoch,
            "accuracy": self.rows[-1]["test_accuracy"],
        }
        if validates_best(self.rows):
            npz.save(folder / "best.npz", self.learner.model_arrays(), notes)
        if self.epoch == self.job.epochs:
            npz.save(folder / "last.npz", self.learner.model_arrays(), notes)
        write_csv(folder / "log.csv", self.rows)
        self._save_checkpoint(folder)

    def _save_checkpoint(self, folder: Path) -> None:
        notes = {
            "identity": self.job.identity(),
            "epoch": self.epoch,
            "step": self.step,
            "rows": self.rows,
            "sums": {key: float(value) for key, value in self.sums.items()},
        }
        npz.save(folder / FILE, self.learner.arrays(), notes)

    def resume(self) -> bool:
        """Go back to the checkpoint in the job's folder; False where there is none.

        Raises:
            DataError: the checkpoint is damaged, or is of another training.
        """
        assert self.job.folder is not None
        path = self.job.folder / FILE
        if not path.exists():
            return False
        arrays, notes = npz.load(path)
        self.job.check_identity(path, notes["identity"])
        arrays, notes = npz.load(path, self.learner.arrays())
        self.learner.restore(arrays)
        self.epoch, self.step, self.rows = notes["epoch"], notes["step"], notes["rows"]
        self.sums = {key: np.float32(value) for key, value in notes["sums"].items()}
        say(f"{self.job.name}: resumed after epoch {self.epoch}/{self.job.epochs}")
        return True

"""One training in JAX: teacher or student, resumable to the bit.

Batches and augmentation depend on (seed, epoch, step) alone and the checkpoint holds everything
else (weights, statistics, moments, bank, sums of the running epoch), so a run that was killed and
resumed ends with the parameters of one that was not.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mcld_core import TeacherBank

from . import jax_checkpoints as checkpoints
from .data import Dataset, Split, steps_per_epoch, training_batches
from .jax_network import Devices, Network, Predictor, Variables, accuracy
from .jax_step import State, Teaching, optimizer
from .logs import (
    Diverged,
    Row,
    Scalars,
    Stopped,
    StopSignal,
    epoch_line,
    progress_bar,
    say,
    write_csv,
)
from .readers import DataError

CHECK_EVERY = 50  # steps between two looks at the loss: each look waits for the device


@dataclass(frozen=True)
class Job:
    """What one training is. ``folder=None``: nothing is written (trials of --tune-lr)."""

    name: str
    method: str
    model: str
    seed: int
    lr: float
    epochs: int
    folder: Path | None

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be resumed."""
        return {key: x for key, x in asdict(self).items() if key not in ("name", "folder")}


def rate(options: argparse.Namespace, base: float, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch (counted from 0)."""
    done = epoch / epochs
    if options.schedule == "cosine":
        return base * 0.5 * (1 + math.cos(math.pi * done))
    return float(base * 0.1 ** sum(done >= milestone for milestone in (0.625, 0.75, 0.875)))


class Training:
    """The state of one training and the loop over it."""

    def __init__(
        self,
        job: Job,
        network: Network,
        variables: Variables,
        step: Callable[..., tuple[State, dict[str, jax.Array]]],
        teaching: Teaching,
        data: Dataset,
        options: argparse.Namespace,
        devices: Devices,
        predict: Predictor,
    ) -> None:
        self.job, self.data, self.options, self.devices = job, data, options, devices
        self.network, self.step_function, self.teaching = network, step, teaching
        self.predict = predict
        bank = None
        if job.method.startswith("mcld") and options.bank_size not in (0, "all"):
            bank = TeacherBank.empty(options.bank_size, data.classes, like=np.zeros(0, "float32"))
        moments = optimizer(options).init(variables.params)
        self.state: State = devices.copy(State(variables, moments, bank))
        self.rows: list[Row] = []
        self.epoch = self.step = 0
        self.sums: dict[str, jax.Array] = {}

    def run(self) -> list[Row]:
        """Train to the last epoch and return an epoch a row.

        Raises:
            Diverged: the loss is NaN or infinite.
            Stopped: Ctrl-C or SIGTERM, after the state was saved.
        """
        folder = self.job.folder
        scalars = None
        if folder is not None and self.options.tensorboard:
            scalars = Scalars(folder / "tensorboard")
        with StopSignal() as stop:
            while self.epoch < self.job.epochs:
                self._epoch(stop)
                if folder is not None:
                    say(epoch_line(self.job.name, self.rows[-1], self.job.epochs))
                    self._save_epoch(folder)
                if scalars is not None:
                    scalars.add(self.rows[-1])
        if scalars is not None:
            scalars.close()
        return self.rows

    def _epoch(self, stop: StopSignal) -> None:
        job, options = self.job, self.options
        started = time.perf_counter()
        steps = steps_per_epoch(self.data.train, options.batch_size)
        lr = rate(options, job.lr, self.epoch, job.epochs)
        batches = training_batches(
            self.data.train,
            options.batch_size,
            seed=job.seed,
            epoch=self.epoch,
            crop=options.crop,
            flip=options.flip,
            start=self.step,
        )
        title = f"{job.name} {self.epoch + 1}/{job.epochs}"
        for batch in progress_bar(batches, steps, title, self.step):
            progress = (self.epoch * steps + self.step) / (job.epochs * steps)
            images, labels, index = batch
            rows = self.devices.split((images, labels.astype("int32"), index.astype("int32")))
            self.state, sums = self.step_function(
                self.state, self.teaching, *rows, np.float32(progress), np.float32(lr)
            )
            self.sums = {key: self.sums[key] + x if self.sums else x for key, x in sums.items()}
            self.step += 1
            if self.step % CHECK_EVERY == 0:
                self._check_finite()
            if stop.requested:
                self._stop()
        self._check_finite()
        row: Row = {"epoch": self.epoch + 1, "lr": lr}
        row |= {key: float(value) / len(self.data.train) for key, value in self.sums.items()}
        for part in ("validation", "test"):
            split: Split = getattr(self.data, part)
            if len(split):
                logits = self.predict(self.network, self.state.variables, split)
                row[f"{part}_accuracy"] = accuracy(logits, split.labels)
        row["seconds"] = time.perf_counter() - started
        self.rows.append(row)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}

    def _check_finite(self) -> None:
        loss = float(self.sums["loss"])
        if not math.isfinite(loss):
            kept = ""
            if self.job.folder is not None and self.rows:
                kept = (
                    f" The last good checkpoint is {self.job.folder / 'checkpoint.npz'} "
                    f"(epoch {len(self.rows)})."
                )
            raise Diverged(
                f"{self.job.name}: the loss is {loss} in epoch {self.epoch + 1}, by step "
                f"{self.step}.{kept} Try a smaller rate: --lr {self.job.method}="
                f"{self.job.lr / 3:.2g}"
            )

    def _stop(self) -> None:
        if self.job.folder is None:
            raise Stopped(f"stopped while trying {self.job.name} at lr {self.job.lr:g}")
        self._check_finite()
        self._save_checkpoint(self.job.folder)
        raise Stopped(
            f"{self.job.name} stopped in epoch {self.epoch + 1}/{self.job.epochs} after "
            f"step {self.step}; the state is saved in {self.job.folder}"
        )

    # ---- files ----

    def _save_epoch(self, folder: Path) -> None:
        weights = {"name": self.job.model, "classes": self.data.classes, "epoch": self.epoch}
        weights["image_shape"] = list(self.data.image_shape)
        best = max((row.get("validation_accuracy", 0.0) for row in self.rows[:-1]), default=-1.0)
        if self.rows[-1].get("validation_accuracy", 0.0) > best:
            checkpoints.save(folder / "best.npz", self.state.variables, weights)
        if self.epoch == self.job.epochs:
            checkpoints.save(folder / "last.npz", self.state.variables, weights)
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
        checkpoints.save(folder / "checkpoint.npz", self.state, notes)

    def resume(self) -> bool:
        """Go back to the checkpoint in the job's folder; False where there is none.

        Raises:
            DataError: the checkpoint is damaged, or is of another training.
        """
        assert self.job.folder is not None
        path = self.job.folder / "checkpoint.npz"
        if not path.exists():
            return False
        notes = checkpoints.notes(path)
        if notes["identity"] != self.job.identity():
            raise DataError(
                f"{path} is of another training: {notes['identity']}, not {self.job.identity()}; "
                "resume with the options of that run, or choose another --out"
            )
        self.state = checkpoints.load(path, self.state)
        self.epoch, self.step, self.rows = notes["epoch"], notes["step"], notes["rows"]
        sums = {key: np.float32(value) for key, value in notes["sums"].items()}
        self.sums = self.devices.copy(sums)
        return True

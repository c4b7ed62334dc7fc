"""One training by Keras' `fit`: teacher or student, resumable to the bit.

Batches and augmentation depend on (seed, epoch, step) alone and the checkpoint of each epoch holds
everything else (weights, statistics, optimiser, step, bank), so a run that was killed and resumed
ends with the parameters of one that was not.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from . import keras_checkpoints as checkpoints
from .data import Dataset, Split, steps_per_epoch, training_batches
from .handover import describe
from .keras_learner import SGD, make_learner, with_cached_teacher
from .logs import Row, Scalars, StopSignal, epoch_line, say, write_csv
from .training import CHECK_EVERY, Job, learning_rate, validates_best

FILE = "checkpoint.zip"
Logits = NDArray[np.float32]


def pixels(images: NDArray[np.uint8], data: Dataset) -> NDArray[np.float32]:
    """Return bytes as floats, each channel centred and scaled."""
    mean, std = (np.asarray(x, "float32") * 255 for x in (data.mean, data.std))
    return (images.astype("float32") - mean) / std


def predict(model: keras.Model, split: Split, data: Dataset, batch_size: int) -> Logits:
    """Return the model's logits of all images of a split, float32."""
    parts = [
        model.predict_on_batch(pixels(split.images[start : start + batch_size], data))
        for start in range(0, len(split), batch_size)
    ]
    return np.concatenate(parts).astype("float32")


class Batches(keras.utils.PyDataset):
    """The training batches of an epoch, with the teacher's logits where they are known."""

    def __init__(
        self, data: Dataset, options: argparse.Namespace, seed: int, table: Logits | None
    ) -> None:
        super().__init__()
        self.data, self.options, self.seed, self.table = data, options, seed, table
        self.epoch = 0

    def __len__(self) -> int:
        return steps_per_epoch(self.data.train, self.options.batch_size)

    def __getitem__(self, number: int) -> tuple[Any, NDArray[np.int32]]:
        options = self.options
        images, labels, index = next(
            training_batches(
                self.data.train,
                options.batch_size,
                seed=self.seed,
                epoch=self.epoch,
                crop=options.crop,
                flip=options.flip,
                start=number,
            )
        )
        x = pixels(images, self.data)
        return x if self.table is None else (x, self.table[index]), labels.astype("int32")


class Training:
    """The state of one training. ``table``: the teacher's logits where images stay the same."""

    def __init__(
        self,
        job: Job,
        model: keras.Model,
        teacher: keras.Model | None,
        table: Logits | None,
        data: Dataset,
        options: argparse.Namespace,
    ) -> None:
        self.job, self.model, self.data, self.options = job, model, data, options
        self.batches = Batches(data, options, job.seed, table)
        student = model
        if table is not None:
            teacher, student = with_cached_teacher(model, data.classes)
        total_steps = job.epochs * len(self.batches)
        self.learner = make_learner(job.method, student, teacher, options, total_steps)
        optimizer = SGD(job.lr, options.momentum, options.weight_decay)
        self.learner.compile(optimizer, metrics=["accuracy"])
        self.rows: list[Row] = []

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return len(self.rows)

    def run(self) -> list[Row]:
        """Train to the last epoch and return an epoch a row.

        Raises:
            Diverged: the loss is NaN or infinite.
            Stopped: Ctrl-C or SIGTERM; the checkpoint of the last whole epoch is there.
        """
        if self.epoch == self.job.epochs:
            return self.rows
        with StopSignal() as stop:
            self.learner.fit(
                self.batches,
                epochs=self.job.epochs,
                initial_epoch=self.epoch,
                shuffle=False,  # the batches are
                verbose=1 if sys.stdout.isatty() else 0,
                callbacks=[_Epochs(self, stop)],
            )
        return self.rows

    def resume(self) -> bool:
        """Go back to the checkpoint in the job's folder; False where there is none.

        Raises:
            DataError: the checkpoint is damaged, or is of another training.
        """
        assert self.job.folder is not None
        path = self.job.folder / FILE
        if not path.exists():
            return False
        notes = checkpoints.read_notes(path)
        self.job.check_identity(path, notes["identity"])
        checkpoints.load_state(path, self.learner)
        self.rows = notes["rows"]
        return True

    def finish_epoch(self, row: Row, started: float) -> None:
        """Add the accuracies and the time, say and save what the epoch came to."""
        for part in ("validation", "test"):
            split: Split = getattr(self.data, part)
            if len(split):
                logits = predict(self.model, split, self.data, self.options.eval_batch_size)
                row[f"{part}_accuracy"] = float((logits.argmax(1) == split.labels).mean())
        row["seconds"] = time.perf_counter() - started
        self.rows.append(row)
        folder = self.job.folder
        if folder is None:
            return
        say(epoch_line(self.job.name, row, self.job.epochs))
        if validates_best(self.rows):
            checkpoints.save_model(folder / "best.keras", self.model, self._described())
        if self.epoch == self.job.epochs:
            checkpoints.save_model(folder / "last.keras", self.model, self._described())
        write_csv(folder / "log.csv", self.rows)
        notes = {"identity": self.job.identity(), "rows": self.rows}
        checkpoints.save_state(folder / FILE, self.learner, notes)

    def _described(self) -> dict[str, Any]:
        """What `last.keras` says of its model."""
        job = self.job
        described = describe(self.data, job.method, self.options.teacher)
        return described | {"name": job.model, "epoch": self.epoch}


class _Epochs(keras.callbacks.Callback):
    """Sets the rate, watches the loss, and ends each epoch with its row and checkpoint."""

    def __init__(self, training: Training, stop: StopSignal) -> None:
        super().__init__()
        self.training, self.stop = training, stop
        self.scalars: Scalars | None = None
        folder = training.job.folder
        if folder is not None and training.options.tensorboard:
            self.scalars = Scalars(folder / "tensorboard")

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        training = self.training
        self.started = time.perf_counter()
        job = training.job
        self.lr = learning_rate(training.options.schedule, job.lr, epoch / job.epochs)
        training.learner.optimizer.learning_rate = self.lr
        training.batches.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        job = self.training.job
        if (batch + 1) % CHECK_EVERY == 0:
            self._check_finite(logs or {}, batch)
        if self.stop.requested:
            raise job.stopped(self.training.epoch, batch + 1, "the epochs before it are saved")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        self._check_finite(logs, len(self.training.batches) - 1)
        row: Row = {"epoch": epoch + 1, "lr": self.lr, "loss": float(logs["loss"])}
        row |= {key: float(x) for key, x in logs.items() if key.startswith("term_")}
        row["train_accuracy"] = float(logs["accuracy"])
        self.training.finish_epoch(row, self.started)
        if self.scalars is not None:
            self.scalars.add(self.training.rows[-1])

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.scalars is not None:
            self.scalars.close()

    def _check_finite(self, logs: dict[str, Any], batch: int) -> None:
        training = self.training
        training.job.check_finite(float(logs["loss"]), training.epoch, batch + 1, FILE)

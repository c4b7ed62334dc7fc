"""One training by Keras' `fit`: teacher or student, resumable to the bit.

Batches and augmentation depend on (seed, epoch, step) alone and the checkpoint, of each epoch or of
the step at which the user stopped, holds everything else (weights, statistics, optimiser, step,
bank, sums of the running epoch), so a run that was killed and resumed ends with the parameters of
one that was not.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from . import keras_checkpoints as checkpoints
from .data import Dataset, Split, steps_per_epoch, training_batches
from .handover import describe
from .keras_learner import SGD, WholeSet, make_learner, with_more_inputs
from .old_logs import Row, Scalars, StopSignal, epoch_line, say, write_csv
from .training import CHECK_EVERY, Job, learning_rate, validates_best

FILE = "checkpoint.zip"
Logits = NDArray[np.float32]


class Teaching(NamedTuple):
    """What a training knows of its teacher: the model, or what it answers to all images."""

    model: keras.Model | None = None
    table: Logits | None = None
    still: bool = False
    """The table stands for the model: every epoch shows it the same images."""
    whole_set: bool = False
    """The table's rows are keys."""


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
    """The training batches of an epoch from ``start`` on, with what is known of the teacher."""

    def __init__(
        self, data: Dataset, options: argparse.Namespace, seed: int, teaching: Teaching
    ) -> None:
        super().__init__()
        self.data, self.options, self.seed, self.teaching = data, options, seed, teaching
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return steps_per_epoch(self.data.train, self.options.batch_size) - self.start

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
                start=self.start + number,
            )
        )
        x = [pixels(images, self.data)]
        if self.teaching.still and self.teaching.table is not None:
            x.append(self.teaching.table[index])
        if self.teaching.whole_set:
            x.append(index.astype("int32"))
        return tuple(x) if len(x) > 1 else x[0], labels.astype("int32")


class Training:
    """The state of one training."""

    def __init__(
        self,
        job: Job,
        model: keras.Model,
        teaching: Teaching,
        data: Dataset,
        options: argparse.Namespace,
    ) -> None:
        self.job, self.model, self.data, self.options = job, model, data, options
        self.batches = Batches(data, options, job.seed, teaching)
        self.steps = len(self.batches)
        teacher, student, keys = teaching.model, model, None
        if teacher is not None and teaching.table is not None:
            teacher, student = with_more_inputs(
                teacher, model, cached=teaching.still, indexed=teaching.whole_set
            )
            if teaching.whole_set:
                keys = WholeSet(teaching.table, data.train.labels)
        self.learner = make_learner(
            job.method, student, teacher, options, job.epochs * self.steps, keys
        )
        optimizer = SGD(job.lr, options.momentum, options.weight_decay)
        self.learner.compile(optimizer, metrics=["accuracy"])
        self.rows: list[Row] = []
        self.step = 0  # of the running epoch
        self.sums: list[float] = []  # of its metrics, of the steps before a resumption

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return len(self.rows)

    def run(self) -> list[Row]:
        """Train to the last epoch and return an epoch a row.

        Raises:
            Diverged: the loss is NaN or infinite.
            Stopped: Ctrl-C or SIGTERM, after the state was saved.
        """
        with StopSignal() as stop:
            if self.step:
                self._fit(self.epoch + 1, stop)  # the rest of an epoch
            if self.epoch < self.job.epochs:
                self._fit(self.job.epochs, stop)
        return self.rows

    def _fit(self, epochs: int, stop: StopSignal) -> None:
        self.batches.start = self.step
        self.learner.fit(
            self.batches,
            epochs=epochs,
            initial_epoch=self.epoch,
            shuffle=False,  # the batches are
            verbose=1 if sys.stdout.isatty() else 0,
            callbacks=[_Epochs(self, stop)],
        )

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
        self.rows, self.step, self.sums = notes["rows"], notes["step"], notes["sums"]
        return True

    def take_back_sums(self) -> None:
        """Add the sums of before a resumption to those of the first step after it.

        Only then all metrics have variables; each is a mean, so a sum and a count.
        """
        for variable, value in zip(self._metric_variables(), self.sums, strict=True):
            variable.assign(keras.ops.convert_to_tensor(variable) + value)
        self.sums = []

    def _metric_variables(self) -> list[Any]:
        return [variable for metric in self.learner.metrics for variable in metric.variables]

    def finish_epoch(self, row: Row, started: float) -> None:
        """Add the accuracies and the time, say and save what the epoch came to."""
        for part in ("validation", "test"):
            split: Split = getattr(self.data, part)
            if len(split):
                logits = predict(self.model, split, self.data, self.options.eval_batch_size)
                row[f"{part}_accuracy"] = float((logits.argmax(1) == split.labels).mean())
        row["seconds"] = time.perf_counter() - started
        self.rows.append(row)
        self.step = 0
        folder = self.job.folder
        if folder is None:
            return
        say(epoch_line(self.job.name, row, self.job.epochs))
        if validates_best(self.rows):
            checkpoints.save_model(folder / "best.keras", self.model, self._described())
        if self.epoch == self.job.epochs:
            checkpoints.save_model(folder / "last.keras", self.model, self._described())
        write_csv(folder / "log.csv", self.rows)
        self.save(0)

    def save(self, step: int) -> None:
        """Save the state after so many steps of the running epoch."""
        if self.job.folder is None:
            return
        sums = [float(keras.ops.convert_to_numpy(x)) for x in self._metric_variables()]
        notes = {
            "identity": self.job.identity(),
            "rows": self.rows,
            "step": step,
            "sums": sums if step else [],
        }
        checkpoints.save_state(self.job.folder / FILE, self.learner, notes)

    def _described(self) -> dict[str, Any]:
        """What a kept file says of its model."""
        job = self.job
        described = describe(self.data, job.method, self.options.teacher)
        accuracy = self.rows[-1]["test_accuracy"]
        return described | {"name": job.model, "epoch": self.epoch, "accuracy": accuracy}


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
        training = self.training
        step = training.step + batch + 1
        if training.sums:
            _ = self.model  # on JAX, reading it brings the variables up to date with the step
            training.take_back_sums()
        if step % CHECK_EVERY == 0:
            self._check_finite(logs or {}, step)
        if self.stop.requested and step < training.steps:
            _ = self.model
            self._check_finite(logs or {}, step)
            training.save(step)
            raise training.job.stopped(training.epoch, step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        self._check_finite(logs, self.training.steps)
        row: Row = {"epoch": epoch + 1, "lr": self.lr, "loss": float(logs["loss"])}
        row |= {key: float(x) for key, x in logs.items() if key.startswith("term_")}
        row["train_accuracy"] = float(logs["accuracy"])
        self.training.finish_epoch(row, self.started)
        if self.scalars is not None:
            self.scalars.add(self.training.rows[-1])
        if self.stop.requested:  # after the last epoch, too: the next training cannot know
            raise self.training.job.stopped(self.training.epoch, 0)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.scalars is not None:
            self.scalars.close()

    def _check_finite(self, logs: dict[str, Any], step: int) -> None:
        training = self.training
        training.job.check_finite(float(logs["loss"]), training.epoch, step, FILE)

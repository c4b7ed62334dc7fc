"""One training in PyTorch: teacher or student, resumable to the bit.

Batches and augmentation depend on (seed, epoch, step) alone and the checkpoint holds everything
else (weights, optimiser, scaler, generators, sums of the running epoch), so a run that was killed
and resumed ends with the parameters of one that was not (on the CPU, and on a GPU wherever its
kernels are deterministic).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from . import torch_checkpoints as checkpoints
from .data import Dataset, Split, steps_per_epoch, training_batches
from .handover import describe
from .old_logs import Row, Scalars, StopSignal, epoch_line, progress_bar, say, show, write_csv
from .old_methods import method_loss
from .torch_inference import Pixels, accuracy, predict
from .torch_ranks import Ranks
from .torch_teacher import Teacher
from .training import CHECK_EVERY, Job, learning_rate, validates_best

FILE = "checkpoint.pt"


class Training:
    """The state of one training and the loop over it."""

    def __init__(
        self,
        job: Job,
        model: nn.Module,
        teacher: nn.Module | None,
        data: Dataset,
        options: argparse.Namespace,
        ranks: Ranks,
    ) -> None:
        self.job, self.data, self.options, self.ranks = job, data, options, ranks
        device = ranks.device
        self.model = model.to(device).train()
        self.parallel = ranks.wrap(self.model)
        self.pixels = Pixels(data, device)
        self.autocast: Callable[[], Any] = nullcontext
        if options.amp != "off":
            dtype = torch.bfloat16 if options.amp == "bf16" else torch.float16
            self.autocast = lambda: torch.autocast(device.type, dtype)
        self.teacher = None
        if teacher is not None:
            self.teacher = Teacher(teacher, data, options, self.pixels, ranks, self.autocast)
        self.contrasts = job.method.startswith("mcld")
        self.loss = method_loss(job.method, options, functional.cross_entropy)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=job.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
        self.folder = job.folder if ranks.first else None
        self.rows: list[Row] = []
        self.epoch = self.step = 0
        self.sums: dict[str, Tensor] = {}

    # ---- the loop ----

    def run(self) -> list[Row]:
        """Train to the last epoch and return an epoch a row.

        Raises:
            Diverged: the loss is NaN or infinite.
            Stopped: Ctrl-C or SIGTERM, after the state was saved.
        """
        scalars = None
        if self.folder is not None and self.options.tensorboard:
            scalars = Scalars(self.folder / "tensorboard")
        with StopSignal() as stop:
            while self.epoch < self.job.epochs:
                self._epoch(stop)
                if self.folder is not None:
                    say(epoch_line(self.job.name, self.rows[-1], self.job.epochs))
                    self._save_epoch(self.folder)
                if scalars is not None:
                    scalars.add(self.rows[-1])
                if self._must_stop(
                    stop
                ):  # after the last epoch, too: the next training cannot know
                    raise self.job.stopped(self.epoch, self.step)
        if scalars is not None:
            scalars.close()
        return self.rows

    def _epoch(self, stop: StopSignal) -> None:
        job, options = self.job, self.options
        started = time.perf_counter()
        steps = steps_per_epoch(self.data.train, options.batch_size)
        lr = learning_rate(options.schedule, job.lr, self.epoch / job.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
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
        bar = progress_bar(batches, steps, title, self.step) if self.ranks.first else batches
        for images, labels, index in bar:
            if len(labels) >= self.ranks.world:
                progress = (self.epoch * steps + self.step) / (job.epochs * steps)
                self._step(*map(self.ranks.share, (images, labels, index)), progress)
            self.step += 1
            if self.step % CHECK_EVERY == 0:
                self._check_finite()
                show(bar, self.sums)
            if self._must_stop(stop):
                self._stop()
        self._check_finite()
        row: Row = {"epoch": self.epoch + 1, "lr": lr}
        sums = {key: float(self.ranks.total(value)) for key, value in self.sums.items()}
        rows = sums.pop("rows")
        row |= {key: value / rows for key, value in sums.items()}
        if self.ranks.first:
            for part in ("validation", "test"):
                split: Split = getattr(self.data, part)
                if len(split):
                    logits = predict(self.model, split, self.pixels, options.eval_batch_size)
                    row[f"{part}_accuracy"] = accuracy(logits, split.labels)
        row["seconds"] = time.perf_counter() - started
        self.rows.append(self.ranks.agree(row))
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}

    def _step(
        self, images: np.ndarray, labels: np.ndarray, index: np.ndarray, progress: float
    ) -> None:
        inputs = self.pixels(images)
        targets, numbers = (torch.from_numpy(x).to(self.ranks.device) for x in (labels, index))
        teacher = keys = None
        if self.teacher is not None:
            teacher = self.teacher.logits(inputs, numbers)
            if self.contrasts:
                keys = self.teacher.keys(teacher, targets, numbers)
        with self.autocast():
            student = self.parallel(inputs)
            loss, terms = self.loss(student, teacher, targets, progress, keys)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        values = {"loss": loss} | {f"term_{key}": value for key, value in terms.items()}
        with torch.no_grad():
            for key, value in values.items():
                self._add(key, len(labels) * torch.as_tensor(value, device=loss.device).detach())
            self._add("train_accuracy", (student.argmax(1) == targets).sum())
            self._add("rows", torch.tensor(float(len(labels)), device=loss.device))

    def _add(self, key: str, value: Tensor) -> None:
        self.sums[key] = self.sums[key] + value if key in self.sums else value.float()

    def _check_finite(self) -> None:
        loss = float(self.ranks.total(self.sums["loss"]))
        self.job.check_finite(loss, self.epoch, self.step, FILE)

    def _must_stop(self, stop: StopSignal) -> bool:
        """Whether a signal came; several ranks ask one another, but not after each step.

        They do after each epoch, too, when ``step`` is 0.
        """
        if self.ranks.world == 1:
            return stop.requested
        if self.step % CHECK_EVERY:
            return False
        flag = torch.tensor(float(stop.requested), device=self.ranks.device)
        return float(self.ranks.total(flag)) > 0

    def _stop(self) -> None:
        self._check_finite()
        self.sums = {key: self.ranks.total(value) for key, value in self.sums.items()}
        if self.folder is not None:
            self._save_checkpoint(self.folder)
        raise self.job.stopped(self.epoch, self.step)

    # ---- files ----

    def _save_epoch(self, folder: Path) -> None:
        if validates_best(self.rows):
            checkpoints.save(folder / "best.pt", self._weights())
        if self.epoch == self.job.epochs:
            checkpoints.save(folder / "last.pt", self._weights())
        write_csv(folder / "log.csv", self.rows)
        self._save_checkpoint(folder)

    def _weights(self) -> dict[str, Any]:
        """Return the model alone, as it is handed on."""
        return {
            "name": self.job.model,
            **describe(self.data, self.job.method, self.options.teacher),
            "epoch": self.epoch,
            "accuracy": self.rows[-1]["test_accuracy"],
            "model": self.model.state_dict(),
        }

    def _save_checkpoint(self, folder: Path) -> None:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoints.save(
            folder / FILE,
            {
                "identity": self.job.identity(),
                "epoch": self.epoch,
                "step": self.step,
                "sums": self.sums,
                "rows": self.rows,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "random": torch.get_rng_state(),
                "random_cuda": cuda,
                "bank": None if self.teacher is None else self.teacher.state(),
            },
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
        state = checkpoints.load(path)
        self.job.check_identity(path, state["identity"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random_cuda"])
        if self.teacher is not None:
            self.teacher.restore(state["bank"])
        self.epoch, self.step, self.rows = state["epoch"], state["step"], state["rows"]
        share = 1.0 if self.ranks.first else 0.0  # the sums are those of all ranks
        self.sums = {key: share * x.to(self.ranks.device) for key, x in state["sums"].items()}
        return True

"""One training in PyTorch: teacher or student, resumable to the bit.

Batches and augmentation depend on (seed, epoch, step) alone and the checkpoint holds everything
else (weights, optimiser, scaler, generators, sums of the running epoch), so a run that was killed
and resumed ends with the parameters of one that was not (on the CPU, and on a GPU wherever its
kernels are deterministic).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from . import torch_checkpoints as checkpoints
from .data import Dataset, Split, steps_per_epoch, training_batches
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
from .methods import method_loss
from .readers import DataError
from .torch_inference import Pixels, accuracy, predict
from .torch_ranks import Ranks
from .torch_teacher import Teacher

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
        return {
            "method": self.method,
            "model": self.model,
            "seed": self.seed,
            "lr": self.lr,
            "epochs": self.epochs,
        }


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
        if scalars is not None:
            scalars.close()
        return self.rows

    def _epoch(self, stop: StopSignal) -> None:
        job, options = self.job, self.options
        started = time.perf_counter()
        steps = steps_per_epoch(self.data.train, options.batch_size)
        lr = rate(options, job.lr, self.epoch, job.epochs)
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
        if not math.isfinite(loss):
            kept = ""
            if self.job.folder is not None and self.rows:
                kept = (
                    f" The last good checkpoint is {self.job.folder / 'checkpoint.pt'} "
                    f"(epoch {len(self.rows)})."
                )
            raise Diverged(
                f"{self.job.name}: the loss is {loss} in epoch {self.epoch + 1}, by step "
                f"{self.step}.{kept} Try a smaller rate: --lr {self.job.method}="
                f"{self.job.lr / 3:.2g}"
            )

    def _must_stop(self, stop: StopSignal) -> bool:
        """Whether a signal came; several ranks ask one another, but not in each step."""
        if self.ranks.world == 1:
            return stop.requested
        if self.step % CHECK_EVERY:
            return False
        flag = torch.tensor(float(stop.requested), device=self.ranks.device)
        return float(self.ranks.total(flag)) > 0

    def _stop(self) -> None:
        if self.job.folder is None:
            raise Stopped(f"stopped while trying {self.job.name} at lr {self.job.lr:g}")
        self._check_finite()
        if self.folder is not None:
            self._save_checkpoint(self.folder)
        raise Stopped(
            f"{self.job.name} stopped in epoch {self.epoch + 1}/{self.job.epochs} after "
            f"step {self.step}; the state is saved in {self.job.folder}"
        )

    # ---- files ----

    def _save_epoch(self, folder: Path) -> None:
        best = max((row.get("validation_accuracy", 0.0) for row in self.rows[:-1]), default=-1.0)
        if self.rows[-1].get("validation_accuracy", 0.0) > best:
            checkpoints.save(folder / "best.pt", self._weights())
        if self.epoch == self.job.epochs:
            checkpoints.save(folder / "last.pt", self._weights())
        write_csv(folder / "log.csv", self.rows)
        self._save_checkpoint(folder)

    def _weights(self) -> dict[str, Any]:
        """Return the model alone, as it is handed on."""
        return {
            "name": self.job.model,
            "classes": self.data.classes,
            "dataset": self.data.name,
            "epoch": self.epoch,
            "image_shape": list(self.data.image_shape),
            "normalization": {"mean": list(self.data.mean), "std": list(self.data.std)},
            "model": self.model.state_dict(),
        }

    def _save_checkpoint(self, folder: Path) -> None:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoints.save(
            folder / "checkpoint.pt",
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
        path = self.job.folder / "checkpoint.pt"
        if not path.exists():
            return False
        state = checkpoints.load(path)
        if state["identity"] != self.job.identity():
            raise DataError(
                f"{path} is of another training: {state['identity']}, not {self.job.identity()}; "
                "resume with the options of that run, or choose another --out"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random_cuda"])
        if self.teacher is not None:
            self.teacher.restore(state["bank"])
        self.epoch, self.step, self.rows = state["epoch"], state["step"], state["rows"]
        self.sums = {key: value.to(self.ranks.device) for key, value in state["sums"].items()}
        return True

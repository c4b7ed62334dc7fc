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
from .methods import Ops, method_loss
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
        return {
            "method": self.method,
            "model": self.model,
            "seed": self.seed,
            "lr": self.lr,
            "epochs": self.epochs,
        }


def standardise(logits: Tensor) -> Tensor:
    """Return each row minus its mean, over its standard deviation."""
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (logits.std(1, keepdim=True) + 1e-7)


OPS = Ops(functional.cross_entropy, standardise)


def pick_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is the first accelerator, else the CPU."""
    if name != "auto":
        return torch.device(name)
    accelerator = torch.accelerator.current_accelerator()
    return torch.device("cpu") if accelerator is None else accelerator


class Pixels:
    """Turns (rows, height, width, channels) bytes into normalised tensors on the device."""

    def __init__(self, data: Dataset, device: torch.device) -> None:
        self.device = device
        shape = (1, -1, 1, 1)
        self.mean = torch.tensor(data.mean, device=device).view(shape)
        self.std = torch.tensor(data.std, device=device).view(shape)

    def __call__(self, images: np.ndarray) -> Tensor:
        """Return (rows, channels, height, width) float32."""
        pixels = torch.from_numpy(images).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return (pixels.float() / 255 - self.mean) / self.std


@torch.no_grad()
def predict(model: nn.Module, split: Split, pixels: Pixels, batch_size: int) -> Tensor:
    """Return the logits of a whole split, in evaluation mode; restores the mode."""
    was_training = model.training
    model.eval()
    parts = [
        model(pixels(split.images[start : start + batch_size])).float()
        for start in range(0, len(split), batch_size)
    ]
    model.train(was_training)
    return torch.cat(parts)


def accuracy(logits: Tensor, labels: np.ndarray) -> float:
    """Return the part of rows whose greatest logit is the label's."""
    return float((logits.argmax(1).cpu().numpy() == labels).mean())


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
        device: torch.device,
    ) -> None:
        self.job, self.data, self.options, self.device = job, data, options, device
        self.model = model.to(device).train()
        self.pixels = Pixels(data, device)
        self.teacher_logits = self._teacher(teacher)
        self.loss = method_loss(job.method, options, OPS)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=job.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
        amp = options.amp
        self.autocast: Callable[[], Any] = nullcontext
        if amp != "off":
            dtype = torch.bfloat16 if amp == "bf16" else torch.float16
            self.autocast = lambda: torch.autocast(device.type, dtype)
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self.rows: list[Row] = []
        self.epoch = self.step = 0
        self.sums: dict[str, Tensor] = {}

    def _teacher(self, teacher: nn.Module | None) -> Callable[[Tensor, np.ndarray], Tensor | None]:
        """Return a function from a batch and its row numbers to the teacher's logits."""
        if teacher is None:
            return lambda images, index: None
        teacher.to(self.device).eval().requires_grad_(False)
        if not self.options.crop and not self.options.flip:  # the same images in each epoch
            table = predict(teacher, self.data.train, self.pixels, self.options.eval_batch_size)
            return lambda images, index: table[torch.from_numpy(index).to(self.device)]

        def live(images: Tensor, index: np.ndarray) -> Tensor:
            with torch.no_grad(), self.autocast():
                logits: Tensor = teacher(images)
                return logits

        return live

    # ---- the loop ----

    def run(self) -> list[Row]:
        """Train to the last epoch and return an epoch a row.

        Raises:
            Diverged: the loss is NaN or infinite.
            Stopped: Ctrl-C or SIGTERM, after the state was saved.
        """
        scalars = None
        if self.job.folder is not None and self.options.tensorboard:
            scalars = Scalars(self.job.folder / "tensorboard")
        with StopSignal() as stop:
            while self.epoch < self.job.epochs:
                self._epoch(stop)
                row = self.rows[-1]
                if self.job.folder is not None:
                    say(epoch_line(self.job.name, row, self.job.epochs))
                    self._save_epoch()
                if scalars is not None:
                    scalars.add(row)
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
        for images, labels, index in progress_bar(batches, steps, title, self.step):
            self._step(
                images, labels, index, (self.epoch * steps + self.step) / (job.epochs * steps)
            )
            self.step += 1
            if self.step % CHECK_EVERY == 0:
                self._check_finite()
            if stop.requested:
                self._stop()
        self._check_finite()
        rows = len(self.data.train)
        row: Row = {"epoch": self.epoch + 1, "lr": lr}
        row |= {key: float(value) / rows for key, value in self.sums.items()}
        for part in ("validation", "test"):
            split: Split = getattr(self.data, part)
            if len(split):
                logits = predict(self.model, split, self.pixels, options.eval_batch_size)
                row[f"{part}_accuracy"] = accuracy(logits, split.labels)
        row["seconds"] = time.perf_counter() - started
        self.rows.append(row)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}

    def _step(
        self, images: np.ndarray, labels: np.ndarray, index: np.ndarray, progress: float
    ) -> None:
        inputs, targets = self.pixels(images), torch.from_numpy(labels).to(self.device)
        teacher = self.teacher_logits(inputs, index)
        with self.autocast():
            student = self.model(inputs)
            loss, terms = self.loss(student, teacher, targets, progress)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        values = {"loss": loss} | {f"term_{key}": value for key, value in terms.items()}
        with torch.no_grad():
            for key, value in values.items():
                self._add(key, len(labels) * value.detach())
            self._add("train_accuracy", (student.argmax(1) == targets).sum())

    def _add(self, key: str, value: Tensor) -> None:
        self.sums[key] = self.sums[key] + value if key in self.sums else value.float()

    def _check_finite(self) -> None:
        loss = float(self.sums["loss"])
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

    def _stop(self) -> None:
        if self.job.folder is None:
            raise Stopped(f"stopped while trying {self.job.name} at lr {self.job.lr:g}")
        self._check_finite()
        self._save_checkpoint()
        raise Stopped(
            f"{self.job.name} stopped in epoch {self.epoch + 1}/{self.job.epochs} after "
            f"step {self.step}; the state is saved in {self.job.folder}"
        )

    # ---- files ----

    def _save_epoch(self) -> None:
        assert self.job.folder is not None
        best = max((row.get("validation_accuracy", 0.0) for row in self.rows[:-1]), default=-1.0)
        if self.rows[-1].get("validation_accuracy", 0.0) > best:
            checkpoints.save(self.job.folder / "best.pt", self._weights())
        if self.epoch == self.job.epochs:
            checkpoints.save(self.job.folder / "last.pt", self._weights())
        write_csv(self.job.folder / "log.csv", self.rows)
        self._save_checkpoint()

    def _weights(self) -> dict[str, Any]:
        """Return the model alone, as it is handed on."""
        return {
            "name": self.job.model,
            "classes": self.data.classes,
            "epoch": self.epoch,
            "image_shape": list(self.data.image_shape),
            "model": self.model.state_dict(),
        }

    def _save_checkpoint(self) -> None:
        assert self.job.folder is not None
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoints.save(
            self.job.folder / "checkpoint.pt",
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
        self.epoch, self.step, self.rows = state["epoch"], state["step"], state["rows"]
        self.sums = {key: value.to(self.device) for key, value in state["sums"].items()}
        return True

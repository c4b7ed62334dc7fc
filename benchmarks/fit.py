"""One small trainer for all tables: a function `fit`.

Rows lie in memory (`Rows`) or come from a loader that has a length, yields (x, labels) or (x,
labels, teacher's logits) and draws from its ``generator``, as torch's `DataLoader` does. Each
epoch is seeded by (seed, epoch): a training that was killed goes on with the bits of a whole one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import nn

from benchmarks.losses import Loss
from benchmarks.record import replaced


class Rows(NamedTuple):
    """Inputs (rows, …), labels (rows,) int64, and the teacher's logits (rows, classes)."""

    x: torch.Tensor
    y: torch.Tensor
    teacher: torch.Tensor | None = None

    def part(self, index: torch.Tensor | slice) -> Rows:
        """Return some of the rows."""
        teacher = None if self.teacher is None else self.teacher[index]
        return Rows(self.x[index], self.y[index], teacher)


class Batches(Protocol):
    """What `fit` reads: a `DataLoader`, `InMemory`, or alike."""

    generator: torch.Generator

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield (x, labels) or (x, labels, teacher's logits)."""


class InMemory:
    """Shuffled batches of rows in memory; the rows that fill no batch are left out of an epoch.

    Args:
        rows: with the teacher's logits, or without.
        batch: rows a batch; all of them where there are fewer.
        augment: ``augment(rows, index, generator)`` returns the batch of these row numbers;
            without it, the rows themselves.
    """

    def __init__(
        self,
        rows: Rows,
        batch: int,
        augment: Callable[[Rows, torch.Tensor, torch.Generator], Rows] | None = None,
    ) -> None:
        self.rows, self.batch = rows, min(batch, len(rows.y))
        self.augment, self.generator = augment, torch.Generator()

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.rows.y) // self.batch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield the batches of an epoch."""
        order = torch.randperm(len(self.rows.y), generator=self.generator)
        for index in order.split(self.batch)[: len(self)]:
            if self.augment is None:
                found = self.rows.part(index)
            else:
                found = self.augment(self.rows, index, self.generator)
            yield found if found.teacher is not None else found[:2]


def cosine(progress: float) -> float:
    """Return the factor of the rate: up over the first tenth, then a cosine down to 0."""
    return min(10 * progress, 0.5 + 0.5 * math.cos(math.pi * max(0.0, progress - 0.1) / 0.9))


def steps(progress: float) -> float:
    """Return the factor of the rate that falls × 0.1 after 150, 180 and 210 of 240 epochs."""
    return 0.1 ** sum(progress >= part / 240 for part in (150, 180, 210))


def device() -> torch.device:
    """Return the accelerator that is really there, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def fit(
    build: Callable[[], nn.Module],
    batches: Batches,
    loss: Loss,
    *,
    epochs: int,
    lr: float,
    seed: int,
    schedule: Callable[[float], float] = cosine,
    optimizer: str = "sgd",
    weight_decay: float = 5e-4,
    teacher: Callable[[torch.Tensor], torch.Tensor] | None = None,
    checkpoint: Path | None = None,
    every: int = 5,
    where: torch.device | None = None,
    autocast: torch.dtype | None = None,
) -> nn.Module:
    """Train a network and return it in eval mode; on the CPU with one thread.

    Args:
        build: makes it, after the seed was set: so a seed has the same first weights for any loss.
        batches: see the module.
        loss: of `benchmarks.losses.loss_of`, or alike.
        epochs: of the whole training.
        lr: the rate at the factor 1 of ``schedule``.
        seed: of weights, order and augmentation.
        schedule: (part of the training that is over) → factor of the rate.
        optimizer: "sgd" (Nesterov momentum 0.9) or "adamw".
        weight_decay: of the optimizer.
        teacher: x → logits, for batches without them.
        checkpoint: a file that is written every ``every`` epochs and read if it is there.
        where: a device; None chooses `device`.
        autocast: the dtype of the forward pass.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    where = where or device()
    torch.manual_seed(seed)
    model = build().to(where)
    if any(p.ndim == 4 for p in model.parameters()):
        model = model.to(memory_format=torch.channels_last)
    if optimizer == "sgd":
        optim: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=weight_decay
        )
    else:
        optim = torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)
    first = 0
    if checkpoint is not None and checkpoint.is_file():
        state = torch.load(checkpoint, map_location=where, weights_only=True)
        model.load_state_dict(state["model"])
        optim.load_state_dict(state["optimizer"])
        first = state["epoch"]
    with one_thread():
        for epoch in range(first, epochs):
            torch.manual_seed(1_000_003 * (seed + 1) + epoch)
            batches.generator.manual_seed(1_000_003 * (seed + 1) + epoch)
            model.train()
            for number, (x, y, *known) in enumerate(batches):
                progress = (epoch + number / len(batches)) / epochs
                for group in optim.param_groups:
                    group["lr"] = lr * schedule(progress)
                x, y = x.to(where), y.to(where)
                with torch.autocast(where.type, autocast, enabled=autocast is not None):
                    logits = model(x)
                    with torch.no_grad():
                        taught = known[0].to(where) if known else teacher(x) if teacher else logits
                found = loss(logits.float(), taught.detach().float(), y, progress)
                optim.zero_grad()
                found.backward()
                optim.step()
            if not math.isfinite(last := float(found.detach())):
                raise FloatingPointError(f"the loss is {last} after epoch {epoch + 1}")
            if checkpoint is not None and (epoch + 1) % every == 0 and epoch + 1 < epochs:
                state = {"model": model.state_dict(), "optimizer": optim.state_dict()}
                with replaced(checkpoint) as new:
                    torch.save(state | {"epoch": epoch + 1}, new)
    return model.eval()


@torch.no_grad()
def predict(model: nn.Module, x: torch.Tensor, batch: int = 500) -> torch.Tensor:
    """Return float32 logits on the CPU, in eval mode."""
    model.eval()
    where = next(model.parameters()).device
    with one_thread():
        return torch.cat([model(part.to(where)).float().cpu() for part in x.split(batch)])


def accuracy(model: nn.Module, rows: Rows) -> float:
    """Return the percentage of right answers."""
    return 100 * float((predict(model, rows.x).argmax(1) == rows.y).double().mean())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: small networks are slower with more, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""What is compared, how it is trained, and the record of it."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from recipes.files import read_json, write_json
from recipes.sequence_losses import row_loss
from torch import nn

from benchmarks.tiny_imagenet.data import VALIDATION, Split, Task

BATCH, TUNE_SEED = 128, 0
WIDTHS = (16, 32, 64, 128)
RATES = (0.1, 0.3)
STEP = 3.0  # the third rate is this much above or below the better of the two

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(student's logits, teacher's logits, labels, progress) → scalar."""


class Row(NamedTuple):
    """A row of the table: a method, and the values of its constant, the usual one first."""

    method: str
    constants: tuple[float, ...] = ()

    def loss(self, constant: float) -> Loss:
        """Return the loss, with the constant where the method has it."""
        return functools.partial(row_loss, self.method.format(constant))


WEIGHTS, TEMPERATURES = (0.25, 0.1, 1.0), (2.0, 1.0, 4.0)
FULL = "mcld-ce:weight_sample={},category_warmup=0"
ROWS = {
    "CE": Row("ce"),
    "KD": Row("kd:temperature={},weight=1,weight_ce=0", TEMPERATURES),
    "CE + KD": Row("kd:temperature={},weight=1,weight_ce=1", TEMPERATURES),
    "CE + DKD": Row("dkd:weight={},beta=2,warmup=0", WEIGHTS),
    "CE + sample-wise": Row(
        "mcld-ce:weight_sample={},weight_instance=0,weight_category=0", WEIGHTS
    ),
    "MCLD + CE, no ramp": Row(FULL, WEIGHTS),
    "MCLD": Row("mcld:weight_sample={}", WEIGHTS),
    "MCLD, no ramp": Row("mcld:weight_sample={},category_warmup=0", WEIGHTS),
    "MCLD + CE, no ramp, no instance-wise": Row(f"{FULL},weight_instance=0", WEIGHTS),
    "MCLD + CE, no ramp, no category-wise": Row(f"{FULL},weight_category=0", WEIGHTS),
    "MCLD + CE": Row("mcld-ce:weight_sample={}", WEIGHTS),
}


def student(classes: int, factor: int = 1) -> nn.Module:
    """Return four convolutions of ``factor`` times `WIDTHS` channels and a linear layer."""
    layers: list[nn.Module] = []
    widths = (3, *(factor * width for width in WIDTHS))
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def forward(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return float32 logits of uint8 images; the convolutions compute in bfloat16."""
    x = (images.float() - 115.0) / 70.0
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    return logits.float()


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Return the percentage of right answers."""
    model.eval()
    pairs = zip(split.x.split(1000), split.y.split(1000), strict=True)
    right = sum(int((forward(model, x).argmax(1) == y).sum()) for x, y in pairs)
    return 100 * right / len(split.y)


def train(task: Task, loss: Loss, lr: float, seed: int, epochs: int, factor: int = 1) -> nn.Module:
    """Train a student by SGD with momentum and a cosine schedule."""
    torch.manual_seed(seed)
    model = student(task.teacher.shape[1], factor).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = epochs * (len(task.train.y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    order: list[torch.Tensor] = []
    for step in range(steps):
        if not order:
            order = list(torch.randperm(len(task.train.y)).split(BATCH))
            order = order[: steps // epochs]  # whole batches only
        index = order.pop()
        logits = forward(model, task.train.x[index])
        found = loss(logits, task.teacher[index], task.train.y[index], step / steps)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        schedule.step()
    return model


class Run:
    """The trainings, recorded one by one."""

    def __init__(
        self,
        task: Task,
        path: Path,
        epochs: int = 6,
        factor: int = 1,
        trial: int = 3,
        teacher: str = "lite0",
    ) -> None:
        self.task, self.path, self.factor = task, path, factor
        self.epochs = {"validation": trial, "test": epochs}
        self.record = read_json(path) or {}
        model = student(task.teacher.shape[1], factor)
        self.record.setdefault("settings", {
            "teacher": teacher, "train": len(task.train.y), "validation": VALIDATION,
            "test": len(task.test.y), "epochs": epochs, "trial_epochs": trial, "batch": BATCH,
            "width": factor, "parameters": sum(p.numel() for p in model.parameters()),
            "teacher_test_accuracy": round(task.teacher_right, 2),
        })  # fmt: skip
        self.record.setdefault("trials", {})
        self.record.setdefault("tests", {})

    def score(self, row: str, lr: float, constant: float, seed: int, part: str) -> float:
        """Return the accuracy of a training, from the record or by training now."""
        known = self.record["tests" if part == "test" else "trials"]
        key = f"{row}|{lr:.4g}|{constant:g}|{seed}"
        if key not in known:
            started = time.perf_counter()
            loss, epochs = ROWS[row].loss(constant), self.epochs[part]
            model = train(self.task, loss, lr, seed, epochs, self.factor)
            known[key] = round(accuracy(model, getattr(self.task, part)), 3)
            write_json(self.path, self.record)
            print(f"{part} {key}: {known[key]} {time.perf_counter() - started:.0f} s", flush=True)
        found: float = known[key]
        return found

    def tune(self, row: str) -> tuple[float, float]:
        """Return the rate and the constant of the best of five trials."""
        first, *others = ROWS[row].constants or (0.0,)
        tried: dict[tuple[float, float], float] = {}

        def attempt(lr: float, constant: float) -> None:
            found = self.score(row, lr, constant, TUNE_SEED, "validation")
            tried[lr, constant] = found

        def best() -> tuple[float, float]:
            return max(tried, key=lambda pair: tried[pair])

        for lr in RATES:
            attempt(lr, first)
        lr = best()[0]
        attempt(lr * STEP if lr == max(RATES) else lr / STEP, first)
        lr = best()[0]
        for constant in others:
            attempt(lr, constant)
        for factor in () if others else (STEP**0.5, STEP**-0.5):
            attempt(lr * factor, first)
        return best()

"""Distil from teachers that are wrong: KD and MCLD, and what `mcld_core.extensions.teachers` adds.

    pip install '.[torch,examples]'
    python examples/noisy_teacher.py

A teacher of scikit-learn's digits is trained on labels of which 0, 20, 40 or 60 % were replaced by
another class at random, with nothing to keep it from learning them by heart. The student has the
right labels. The plot, accuracy by noise, and every number go to ``--out``; the tables of several
data sets and seeds, with tuned rates, are on the results page of noisy teachers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mcld_core import MCLDConfig, kd_loss, mcld_loss
from mcld_core.extensions.teachers import (
    TeacherQuality,
    bounded_loss,
    reliability_weights,
    repair_rows,
)

NOISE = (0, 20, 40, 60)
CONFIG = MCLDConfig(weight_ce=1.0)


def methods(
    rows: Tensor, labels: Tensor, quality: TeacherQuality
) -> dict[str, Callable[[Tensor, Tensor, float], Tensor]]:
    """Return by name ``loss(logits, row numbers, progress)``.

    Args:
        rows: (rows, classes) the teacher's logits of the training digits.
        labels: (rows,).
        quality: of the teacher, measured on digits that it has not seen.
    """
    repaired = repair_rows(rows, labels, reliability_weights(rows, labels, quality))

    def mcld(logits: Tensor, teacher: Tensor, i: Tensor, progress: float, **more: Any) -> Tensor:
        return mcld_loss(logits, teacher[i], labels[i], config=CONFIG, progress=progress, **more)

    return {
        "CE, no teacher": lambda s, i, progress: cross_entropy(s, labels[i]),
        "KD + CE": lambda s, i, progress: kd_loss(s, rows[i]) + cross_entropy(s, labels[i]),
        "MCLD + CE": lambda s, i, progress: mcld(s, rows, i, progress),
        "MCLD + CE, bounded": lambda s, i, progress: bounded_loss(
            mcld(s, rows, i, progress, reduction="none"), 0.5 * progress
        ),
        "MCLD + CE, repaired rows": lambda s, i, progress: mcld(s, repaired, i, progress),
    }


def corrupted(labels: Tensor, percent: int, classes: int, seed: int) -> Tensor:
    """Replace each label with probability ``percent`` % by another class, all alike likely."""
    rng = np.random.default_rng(seed)
    wrong = torch.from_numpy(rng.random(len(labels)) < percent / 100)
    other = (labels + torch.from_numpy(rng.integers(1, classes, len(labels)))) % classes
    return torch.where(wrong, other, labels)


def network(*widths: int) -> nn.Module:
    """Return linear layers with ReLU between them."""
    layers = [[nn.Linear(*pair), nn.ReLU()] for pair in itertools.pairwise(widths)]
    return nn.Sequential(*itertools.chain(*layers))[:-1]


def fit(
    model: nn.Module, x: Tensor, loss: Callable[..., Tensor], epochs: int, decay: float
) -> nn.Module:
    """Train by SGD with a rate that falls linearly to 0, in batches of 50."""
    steps = epochs * (len(x) // 50)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, nesterov=True, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    rows = (i for _ in range(epochs) for i in torch.randperm(len(x)).split(50) if len(i) == 50)
    for step, i in enumerate(rows):
        optimizer.zero_grad()
        loss(model(x[i]), i, step / steps).backward()
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def plot(found: dict[str, dict[int, list[float]]], path: Path) -> None:
    """Draw the mean accuracy by noise, a line a method."""
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, rows in found.items():
        style = {"color": "grey", "linestyle": "--"} if name == "the teacher" else {}
        axes.plot(NOISE, [statistics.fmean(rows[noise]) for noise in NOISE], label=name, **style)
    axes.set(xlabel="wrong labels of the teacher, %", ylabel="test accuracy, %")
    axes.legend()
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Train teachers and students, write numbers and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20, help="of the students")
    parser.add_argument("--teacher-epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("runs/noisy_teacher"))
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    digits, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(classes))
    x, y = torch.tensor(digits[order] / 16, dtype=torch.float32), torch.tensor(classes[order])
    train, held, test = slice(0, 1000), slice(1000, 1300), slice(1300, None)
    found: dict[str, dict[int, list[float]]] = {}

    def note(name: str, noise: int, model: nn.Module) -> None:
        right = (model(x[test]).argmax(1) == y[test]).double().mean()
        found.setdefault(name, {}).setdefault(noise, []).append(100 * float(right))

    for seed, noise in itertools.product(options.seeds, NOISE):
        torch.manual_seed(seed)
        wrong = corrupted(y[train], noise, 10, seed)
        by_heart = lambda s, i, progress, wrong=wrong: cross_entropy(s, wrong[i])  # noqa: E731
        teacher = fit(network(64, 128, 128, 10), x[train], by_heart, options.teacher_epochs, 0.0)
        note("the teacher", noise, teacher)
        quality = TeacherQuality.from_logits(teacher(x[held]), y[held])
        for name, loss in methods(teacher(x[train]), y[train], quality).items():
            torch.manual_seed(seed)
            note(name, noise, fit(network(64, 64, 10), x[train], loss, options.epochs, 5e-4))
    for name, rows in found.items():
        means = (f"{noise} %: {statistics.fmean(rows[noise]):.1f}" for noise in NOISE)
        print(f"{name:26}", "  ".join(means))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "numbers.json").write_text(json.dumps(found, indent=1))
    plot(found, options.out / "accuracy.png")


if __name__ == "__main__":
    main()

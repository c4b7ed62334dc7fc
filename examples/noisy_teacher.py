"""Distil from teachers that are wrong: plain KD and MCLD against the remedies of `teachers`.

    python examples/noisy_teacher.py --dataset digits --quick
    python examples/noisy_teacher.py --dataset fashion_mnist --shrink 2 --tune --seeds 0 1 2 3 4

A teacher is trained on labels of which 0, 20, 40 or 60 % were replaced by another class at random,
one (weak) on few images, and three together (one good, two bad) are an ensemble. The student has
the right labels. Every teacher's logits are computed once, its quality is measured on the
validation split, and every choice (``--tune``: the learning rate of each method) is made there.
Everything goes to ``--out``: every number, the tables, the plot.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from recipes import fit as loops
from recipes import say
from recipes.comparing.noisy_report import METHODS, NOISE, TEACHERS, WITHOUT_TEACHER, write_report
from recipes.data import Dataset
from recipes.data.load import load_dataset
from recipes.files import DataError
from torch import nn
from torch.nn import functional

from mcld_core import kd_loss, mcld_loss
from mcld_core.extensions.teachers import (
    TeacherQuality,
    adaptive_mcld_loss,
    bounded_loss,
    ensemble,
    outlier_weights,
    quality_weights,
    reliability_weights,
    repair_rows,
)

TUNE_SEED, TUNE_TEACHERS = 100, ("0 %", "40 %")


Loss = Callable[[Any, Any, float], Any]
"""(student logits, row numbers, progress) → scalar."""


class Teacher(NamedTuple):
    """Logits of the three splits' rows."""

    train: Any
    validation: Any
    test: Any


class Tensors(NamedTuple):
    """A split as tensors: standardised pixels in rows, and labels."""

    x: Any
    y: Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dataset", choices=("digits", "fashion_mnist"), default="digits")
    add("--data-dir", type=Path, default=Path("data"), help="folder of the official files")
    add("--train-size", type=int, default=8000)
    add("--validation-size", type=int, default=2000)
    add("--shrink", type=int, default=1, help="mean over squares of so many pixels, for speed")
    add("--weak-size", type=int, default=200, help="images that the weak teacher has seen")
    add("--teacher-epochs", type=int, default=15)
    add("--epochs", type=int, default=10)
    add("--batch-size", type=int, default=200)
    add("--lr", type=float, default=0.1)
    add("--lr-grid", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    add("--tune", action="store_true", help="choose each method's rate on the validation split")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--seeds", type=int, nargs="+", default=[0])
    add("--quick", action="store_true", help="small and short, for a look")
    add("--out", type=Path, default=Path("runs/noisy_teacher"))
    options = parser.parse_args(argv)
    if options.dataset == "digits" or options.quick:
        options.train_size, options.validation_size = 1000, 300
        options.batch_size, options.weak_size = 50, 40
    if options.quick:
        options.epochs, options.teacher_epochs = 3, 6
    try:
        data = load_dataset(
            options.dataset,
            options.data_dir,
            train_size=options.train_size,
            validation_size=options.validation_size,
        )
        run(options, data)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace, data: Dataset) -> None:
    """Train every student and write what came of it."""
    torch.set_num_threads(1)
    train, validation, test = (
        Tensors(*loops.as_rows(split, data, options.shrink))
        for split in (data.train, data.validation, data.test)
    )
    rates = dict.fromkeys(options.methods, options.lr)
    if options.tune:
        rates = tune(options, data, train, validation)
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        started = time.perf_counter()
        teachers = make_teachers(options, data.classes, train, validation, test, seed)
        teachers |= ensembles(teachers, train, validation)
        for name, teacher in teachers.items():
            rows.append(record(seed, name, "teacher", accuracy(teacher.test, test)))
        for name, teacher in teachers.items():
            for method in options.methods:
                if method in WITHOUT_TEACHER and name != TEACHERS[0]:
                    continue
                if name not in TEACHERS and method not in ("kd", "mcld", "repair"):
                    continue
                loss = method_loss(method, teacher, train, validation)
                student = fit(options, data.classes, train, loss, seed, rates[method])
                rows.append(record(seed, name, method, accuracy(logits(student, test.x), test)))
        say(f"seed {seed}: {time.perf_counter() - started:.0f} s")
        write_report(options.out, options.methods, rows, rates)


def record(seed: int, teacher: str, method: str, value: float) -> dict[str, Any]:
    """Return one number with what it is of."""
    return {"seed": seed, "teacher": teacher, "method": method, "accuracy": value}


# ---- the methods ----


def method_loss(method: str, teacher: Teacher, train: Tensors, validation: Tensors) -> Loss:
    """Return the loss of a method."""
    y, rows = train.y, teacher.train
    quality = TeacherQuality.from_logits(teacher.validation, validation.y)
    if method in ("ce", "smooth"):
        smoothing = 0.1 if method == "smooth" else 0.0
        return lambda s, i, progress: functional.cross_entropy(s, y[i], label_smoothing=smoothing)
    if method.startswith("kd"):
        plain, _, at = method.partition("-t")
        t, share = float(at or 4), 0.1 if plain == "kd-ce" else 0.0
        return lambda s, i, progress: (
            (1 - share) * kd_loss(s, rows[i], temperature=t)
            + share * functional.cross_entropy(s, y[i])
        )
    if method == "adaptive":
        r = reliability_weights(rows, y, quality)
        return lambda s, i, progress: adaptive_mcld_loss(
            s, rows[i], y[i], reliability=r[i], progress=progress
        )
    if method == "bounded":
        return lambda s, i, progress: bounded_loss(
            mcld_loss(s, rows[i], y[i], progress=progress, reduction="none"),
            0.5 * progress,
        )
    if method in ("repair", "repair-kd"):
        rows = repair_rows(rows, y, reliability_weights(rows, y, quality))
    elif method == "outliers":
        rows = repair_rows(rows, y, outlier_weights(rows, y))
    if method == "repair-kd":
        return lambda s, i, progress: kd_loss(s, rows[i])
    return lambda s, i, progress: mcld_loss(s, rows[i], y[i], progress=progress)


# ---- the teachers ----


def make_teachers(
    options: argparse.Namespace,
    classes: int,
    train: Tensors,
    validation: Tensors,
    test: Tensors,
    seed: int,
) -> dict[str, Teacher]:
    """Train one teacher a noise level, the weak one, and a second bad one."""

    def trained(noise: int, seed: int, size: int | None = None) -> Teacher:
        labels = corrupted(train.y, noise, classes, seed)[:size]
        seen = Tensors(train.x[:size], labels)

        def loss(logits: Any, index: Any, progress: float) -> Any:
            return functional.cross_entropy(logits, labels[index])

        model = fit(options, classes, seen, loss, seed, 0.1, teacher=True)
        return Teacher(*(logits(model, split.x) for split in (train, validation, test)))

    teachers = {f"{noise} %": trained(noise, 1000 + seed) for noise in NOISE}
    teachers["weak"] = trained(0, 2000 + seed, options.weak_size)
    teachers["second bad"] = trained(NOISE[-1], 3000 + seed)
    return teachers


def ensembles(
    teachers: dict[str, Teacher], train: Tensors, validation: Tensors
) -> dict[str, Teacher]:
    """One good and two bad teachers as one: their mean, by measured quality, and by row."""
    members = [teachers[TEACHERS[0]], teachers[f"{NOISE[-1]} %"], teachers.pop("second bad")]
    qualities = [TeacherQuality.from_logits(t.validation, validation.y) for t in members]
    by_quality = quality_weights(qualities, power=2.0)
    by_row = [
        reliability_weights(t.train, train.y, quality)
        for t, quality in zip(members, qualities, strict=True)
    ]
    made = {}
    for name, known, unknown in (
        ("ensemble", None, None),
        ("ensemble by quality", by_quality, by_quality),
        ("ensemble by row", by_row, by_quality),  # beyond the training rows: the quality alone
    ):
        made[name] = Teacher(
            ensemble([t.train for t in members], weights=known),
            ensemble([t.validation for t in members], weights=unknown),
            ensemble([t.test for t in members], weights=unknown),
        )
    return made


def corrupted(labels: Any, percent: int, classes: int, seed: int) -> Any:
    """Replace each label with probability ``percent`` % by another class, all alike likely."""
    rng = np.random.default_rng(seed)
    y = labels.numpy().copy()
    wrong = rng.random(len(y)) < percent / 100
    y[wrong] = (y[wrong] + rng.integers(1, classes, wrong.sum())) % classes
    return torch.from_numpy(y)


# ---- training ----


def fit(
    options: argparse.Namespace,
    classes: int,
    train: Tensors,
    loss: Loss,
    seed: int,
    lr: float,
    teacher: bool = False,
) -> Any:
    """Train a student (one hidden layer of 64) or a teacher (two of 128) by SGD."""
    torch.manual_seed(seed)
    widths = [train.x.shape[1], *((128, 128) if teacher else (64,)), classes]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    decay = 0.0 if teacher else 5e-4  # an unregularised teacher learns the wrong labels too
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=decay
    )
    epochs = options.teacher_epochs if teacher else options.epochs
    steps = math.ceil(options.train_size / options.batch_size)
    size, order = min(options.batch_size, len(train.y)), torch.empty(0, dtype=torch.int64)

    def batches() -> Iterator[Any]:
        """Yield as many batches whatever the number of rows: a weak teacher sees its own often."""
        nonlocal order
        for _ in range(steps):
            if len(order) < size:
                order = torch.randperm(len(train.y))
            index, order = order[:size], order[size:]
            yield index

    def of_rows(index: Any, progress: float) -> Any:
        return loss(model(train.x[index]), index, progress)

    return loops.fit(model, batches, of_rows, optimizer, epochs)


def logits(model: Any, x: Any) -> Any:
    """Return the model's logits of all rows."""
    with torch.no_grad():
        return model(x)


def accuracy(rows: Any, split: Tensors) -> float:
    """Return the part of the rows whose greatest logit is the label's."""
    return float((rows.argmax(1) == split.y).float().mean())


def tune(
    options: argparse.Namespace, data: Dataset, train: Tensors, validation: Tensors
) -> dict[str, float]:
    """Choose each method's learning rate by its mean validation accuracy over two teachers."""
    from recipes.comparing.tuning import tune_rates

    teachers = make_teachers(options, data.classes, train, validation, validation, TUNE_SEED)

    def score(method: str, lr: float) -> float:
        names = TUNE_TEACHERS[: 1 if method in WITHOUT_TEACHER else None]
        losses = [method_loss(method, teachers[name], train, validation) for name in names]
        students = [fit(options, data.classes, train, x, TUNE_SEED, lr) for x in losses]
        return statistics.fmean(accuracy(logits(x, validation.x), validation) for x in students)

    return tune_rates(options.methods, score, options.lr_grid)[0]


if __name__ == "__main__":
    sys.exit(main())

"""Distil an image-and-text teacher of emoji into a student that sees the image alone.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    python examples/multimodal_emoji.py --data-dir . --tune --seeds 0 1 2 3 4

The task: the 58 subcategories of at least ten emoji ("animal-bird", "food-fruit" …), from the
drawings of two vendors. Training, validation and test split by emoji, so both drawings of one lie
on the same side. The teacher gives three rows of logits: of the image, of the text (name and short
names) and of both; the student one, of the image. Methods: cross-entropy, KD from the fused row,
MCLD against one of the teacher's modalities, and against all three (`multimodal_mcld_loss`).
Everything goes to ``--out``: numbers, table, plot, and each method's nearest neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipes import fit as loops
from recipes import say
from recipes.comparing import markdown, plots, spread
from recipes.data import augment
from recipes.data import scores as accuracies
from recipes.data.emoji import NGRAMS, SIDE, Split, read_emoji
from recipes.files import DataError, write_json, write_text
from torch import nn
from torch.nn import functional

from mcld_core import adjust_logits, kd_loss
from mcld_core.extensions.multimodal import multimodal_mcld_loss

METHODS = {
    "ce": "cross-entropy, no teacher",
    "kd": "KD from the fused row",
    "kd-ce": "0.9 KD + 0.1 cross-entropy",
    "image": "MCLD, image → image",
    "fused": "MCLD, image → fused",
    "cross": "MCLD, image → image, text, fused",
    "cross-prior": "MCLD, image → image, text, fused, class prior",
    "ce-balanced": "cross-entropy, adjusted",
    "kd-ce-balanced": "0.9 KD + 0.1 cross-entropy, adjusted",
    "cross-balanced": "MCLD, image → image, text, fused, class prior, adjusted",
}
MODALITIES = {"image": ("image",), "fused": ("fused",), "cross": ("image", "text", "fused")}
TUNE_SEEDS = (100, 101)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", type=Path, default=Path("."), help="folder of the two npm packages")
    add("--teacher-epochs", type=int, default=40)
    add("--epochs", type=int, default=30)
    add("--batch-size", type=int, default=128)
    add("--lr", type=float, default=0.1)
    add("--lr-grid", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    add("--tune", action="store_true", help="choose rates, and KD's T, on the validation split")
    add("--temperatures", type=float, nargs="+", default=[1.0, 2.0, 4.0, 8.0], help="of --tune")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--seeds", type=int, nargs="+", default=[0])
    add("--out", type=Path, default=Path("runs/multimodal_emoji"))
    options = parser.parse_args(argv)
    try:
        splits, names = read_emoji(options.data_dir)
        run(options, splits, names)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace, splits: dict[str, Split], names: list[str]) -> None:
    """Train teachers and students and write what came of it."""
    torch.set_num_threads(1)
    sizes = ", ".join(f"{len(split.labels):,} {name}" for name, split in splits.items())
    say(f"{len(names)} classes; drawings: {sizes}")
    chosen, tuning = dict.fromkeys(options.methods, (options.lr, 4.0)), {}
    if options.tune:
        chosen, tuning = tune(options, splits, len(names))
    rows: list[dict[str, Any]] = []
    shown: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for seed in options.seeds:
        teacher = train_teacher(options, splits["training"], len(names), seed)
        on_training = teacher_rows(teacher, splits["training"])
        for modality, logits in teacher_rows(teacher, splits["test"]).items():
            rows.append(scores(seed, f"teacher: {modality}", logits, splits["test"].labels))
        for method in options.methods:
            student = train_student(
                options, splits["training"], len(names), method, on_training, seed, *chosen[method]
            )
            logits = {part: student_rows(student, split) for part, split in splits.items()}
            rows.append(scores(seed, method, logits["test"], splits["test"].labels))
            if seed == options.seeds[0]:
                shown[method] = logits["training"].numpy(), logits["test"].numpy()
    found = {"chosen": chosen, "tuning_seeds": TUNE_SEEDS, "tuning": tuning, "rows": rows}
    write_json(options.out / "numbers.json", found)
    write_text(options.out / "table.md", table(rows, chosen))
    plots.write_figure(options.out / "accuracy.png", bars(rows))
    compared = [method for method in ("ce", "cross") if method in shown]
    plots.write_figure(options.out / "neighbours.png", neighbours(splits, shown, compared))
    print(table(rows, chosen))


def pixels(images: np.ndarray) -> Any:
    """Return rows of pixels around 0."""
    return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1.0)


def build_student(classes: int) -> Any:
    """Return an image network with one hidden layer."""
    return nn.Sequential(nn.Linear(SIDE * SIDE * 3, 128), nn.ReLU(), nn.Linear(128, classes))


def build_teacher(classes: int) -> Any:
    """Return an image encoder, a text encoder, and a head for each and for both."""

    def encoder(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, 192), nn.ReLU(), nn.Dropout(0.5))

    heads = {"image": 192, "text": 192, "fused": 384}
    return nn.ModuleDict(
        {"see": encoder(SIDE * SIDE * 3), "read": encoder(NGRAMS)}
        | {name: nn.Linear(width, classes) for name, width in heads.items()}
    )


def forward(teacher: Any, images: Any, texts: Any) -> dict[str, Any]:
    """Return the teacher's logits of each modality."""
    seen, read = teacher["see"](images), teacher["read"](texts)
    features = {"image": seen, "text": read, "fused": torch.cat([seen, read], 1)}
    return {name: teacher[name](rows) for name, rows in features.items()}


def teacher_rows(teacher: Any, split: Split) -> dict[str, Any]:
    """Return the teacher's logits of a split, without dropout."""
    with torch.no_grad():
        return forward(teacher.eval(), pixels(split.images), torch.from_numpy(split.texts))


def student_rows(student: Any, split: Split) -> Any:
    """Return the student's logits of a split."""
    with torch.no_grad():
        return student(pixels(split.images))


def train_teacher(options: argparse.Namespace, split: Split, classes: int, seed: int) -> Any:
    """Train the three heads together by cross-entropy."""
    torch.manual_seed(1000 + seed)
    teacher = build_teacher(classes).train()
    texts, labels = torch.from_numpy(split.texts), torch.from_numpy(split.labels)

    def loss(images: Any, index: Any, progress: float) -> Any:
        heads = forward(teacher, images, texts[index])
        return sum(functional.cross_entropy(head, labels[index]) for head in heads.values())

    fit(options, split, teacher, loss, 1000 + seed, 0.1, options.teacher_epochs)
    return teacher


def train_student(
    options: argparse.Namespace,
    split: Split,
    classes: int,
    method: str,
    teacher: dict[str, Any],
    seed: int,
    lr: float,
    temperature: float,
) -> Any:
    """Train a student; the teacher's logits are those of the drawings as they are, T is KD's."""
    torch.manual_seed(seed)
    student = build_student(classes)
    labels = torch.from_numpy(split.labels)
    counts = torch.bincount(labels, minlength=classes)
    kind, balanced = method.removesuffix("-balanced"), method.endswith("balanced")
    prior = counts if balanced or kind.endswith("prior") else None

    def loss(images: Any, index: Any, progress: float) -> Any:
        logits, y = student(images), labels[index]
        if balanced:
            logits = adjust_logits(logits, counts)
        ce = functional.cross_entropy(logits, y)
        if kind.startswith("kd"):
            kd = kd_loss(logits, teacher["fused"][index], temperature=temperature)
            return kd if kind == "kd" else 0.9 * kd + 0.1 * ce
        if kind == "ce":
            return ce
        keys = {name: teacher[name][index] for name in MODALITIES[kind.removesuffix("-prior")]}
        return multimodal_mcld_loss(
            {"image": logits}, keys, y, class_prior=prior, progress=progress
        )

    fit(options, split, student, loss, seed, lr, options.epochs)
    return student.eval()


def fit(
    options: argparse.Namespace,
    split: Split,
    model: Any,
    loss: Callable[[Any, Any, float], Any],
    seed: int,
    lr: float,
    epochs: int,
) -> None:
    """Train by SGD on drawings that are shifted by up to a pixel and mirrored at random."""
    rng, size = np.random.default_rng(seed), options.batch_size

    def batches() -> list[np.ndarray]:
        order = rng.permutation(len(split.labels))
        return [order[start : start + size] for start in range(0, len(order), size)]

    def of_images(index: np.ndarray, progress: float) -> Any:
        images = pixels(augment(split.images[index], rng.random((len(index), 3)), 1, True))
        return loss(images, torch.from_numpy(index), progress)

    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    loops.fit(model, batches, of_images, optimizer, epochs)


def tune(
    options: argparse.Namespace, splits: dict[str, Split], classes: int
) -> tuple[dict[str, tuple[float, float]], dict[str, dict[str, float]]]:
    """Choose each method's rate and KD's temperature on the validation split, by `TUNE_SEEDS`.

    Each temperature has as many trials of the rate as a method without one. Returns both by
    method, and all validation accuracies in percent, by method and temperature and then by rate.
    """
    from recipes.comparing.tuning import tune_rates

    training, part = splits["training"], splits["validation"]
    teachers = {seed: train_teacher(options, training, classes, seed) for seed in TUNE_SEEDS}
    taught = {seed: teacher_rows(teacher, training) for seed, teacher in teachers.items()}
    tried = {}
    for method in options.methods:
        for t in options.temperatures if method.startswith("kd") else [4.0]:
            tried[f"{method}, T = {t:g}" if method.startswith("kd") else method] = method, t

    def score(name: str, lr: float) -> float:
        (method, t), found = tried[name], []
        for seed, rows in taught.items():
            student = train_student(options, training, classes, method, rows, seed, lr, t)
            row = scores(seed, method, student_rows(student, part), part.labels)
            found.append(row["balanced" if method.endswith("balanced") else "accuracy"])
        return statistics.fmean(found)

    rates, tuning = tune_rates(list(tried), score, options.lr_grid)
    best = sorted(tried, key=lambda name: max(tuning[name].values()))  # the best of a method last
    return {tried[name][0]: (rates[name], tried[name][1]) for name in best}, tuning


def scores(seed: int, method: str, logits: Any, labels: np.ndarray) -> dict[str, Any]:
    """Return accuracy and balanced accuracy (the mean over the classes)."""
    found = accuracies("test", logits.numpy(), labels, True)
    accuracy, balanced = found["test_accuracy"], found["test_balanced_accuracy"]
    return {"seed": seed, "method": method, "accuracy": accuracy, "balanced": balanced}


def table(rows: list[dict[str, Any]], chosen: dict[str, tuple[float, float]]) -> str:
    """Return the Markdown table over the seeds."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        rate = f"{chosen[method][0]:.3g}" if method in chosen else ""
        rate += f", T = {chosen[method][1]:g}" if method.startswith("kd") else ""
        cells = (spread([100 * row[key] for row in mine]) for key in ("accuracy", "balanced"))
        lines.append([METHODS.get(method, method), rate, *cells])
    return "\n".join(markdown(["", "rate", "accuracy", "balanced accuracy"], lines)) + "\n"


def bars(rows: list[dict[str, Any]]) -> Any:
    """Draw the students' accuracies with their standard deviation."""
    figure = plots.new_figure(8, 3.5)
    axes = figure.subplots()
    methods = [m for m in METHODS if any(row["method"] == m for row in rows)]
    for place, method in enumerate(reversed(methods)):
        values = [100 * row["accuracy"] for row in rows if row["method"] == method]
        error = statistics.stdev(values) if len(values) > 1 else 0.0
        axes.barh(place, statistics.fmean(values), xerr=error, capsize=3, color="C0")
    axes.set_yticks(range(len(methods)), [METHODS[m] for m in reversed(methods)])
    axes.set(xlabel="test accuracy of the image-only student, %")
    return figure


def neighbours(
    splits: dict[str, Split],
    shown: dict[str, tuple[np.ndarray, np.ndarray]],
    methods: list[str],
    queries: int = 8,
    nearest: int = 5,
) -> Any:
    """Draw test emoji and, by method, the training drawings of the most similar logits."""
    training, test = splits["training"], splits["test"]
    chosen = np.unique(np.linspace(0, len(test.labels) - 1, queries).astype(int))
    figure = plots.new_figure(1.0 * (1 + nearest * len(methods)), 1.0 * len(chosen) + 0.4)
    axes = figure.subplots(len(chosen), 1 + nearest * len(methods), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, query in enumerate(chosen):
        axes[row, 0].imshow(test.images[query])
        for block, method in enumerate(methods):
            keys, logits = shown[method]
            left, right = (x - x.mean(-1, keepdims=True) for x in (logits[query : query + 1], keys))
            cosine = (right @ left[0]) / (np.linalg.norm(right, axis=1) + 1e-12)
            order = np.argsort(-cosine)[:nearest]
            for place, found in enumerate(order):
                axis = axes[row, 1 + block * nearest + place]
                axis.imshow(training.images[found])
                same = training.labels[found] == test.labels[query]
                axis.set_title("✓" if same else "·", fontsize=8, pad=1)
    axes[0, 0].set_title("query", fontsize=8, pad=1)
    figure.suptitle("   |   ".join(["", *(METHODS[m] for m in methods)]), fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main())

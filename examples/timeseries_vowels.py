"""Distil time-series models on overlapping windows: three classifiers and a forecaster.

    pip install '.[torch,examples,onnx]'
    pip install --no-deps aeon sktime
    python examples/timeseries_vowels.py

The data are read from the packages `aeon` and `sktime`, which need not be importable; nothing is
downloaded.

- vowels: JapaneseVowels, 9 speakers, 12 channels of 7 to 29 steps;
- leaf: OSULeaf, 6 kinds of leaves, 427 steps;
- plaid: PLAID, the current of 11 kinds of appliances, 100 to 1344 steps (from `sktime`);
- forecast: an arterial blood pressure, 24 values ahead, as distributions over bins.

Teachers are networks that are trained here, students have a tenth of the weights or less.
``--quick`` takes under a minute: few epochs, one seed, no tuning. Everything goes to ``--out``:
tables, curves, every number, and the students as ONNX files. Data: `recipes/data/series.py`,
models: `recipes/models/series.py`, losses: `recipes/sequence_losses.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipes import say
from recipes.data.series import CONTEXT, SETS, load_classified, load_pressure, packaged_data

from mcld_core.extensions.timeseries import (
    Windows,
    bin_labels,
    forecast_bins,
    forecast_to_logits,
)

BINS = 16
PARTS = (*SETS, "forecast")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; return the process's exit status."""
    from recipes.comparing.tasks import add_options, environment, parse

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS)
    add_options(parser, "runs/timeseries_vowels")
    add("--epochs", type=int, help="of the students; default: by part; quick: 2")
    add("--data-dir", type=Path, help="a folder laid out as aeon/datasets/data")
    options = parse(parser, argv, own=["mae"])
    folders = {
        part: options.data_dir or packaged_data(SETS[part].package if part in SETS else "aeon")
        for part in options.parts
    }

    torch.set_num_threads(options.threads)
    say(environment())
    for part, folder in folders.items():
        if part == "forecast":
            forecaster(options, folder)
        else:
            classifier(options, folder, part)
    return 0


def classifier(options: argparse.Namespace, folder: Path, name: str) -> None:
    """Compare the losses on classified windows; a series has the class of its mean logits."""
    from recipes.comparing.tasks import Task, compare
    from recipes.export import export_pair
    from recipes.models.series import WindowClassifier, shuffled, train_teacher
    from recipes.sequence_losses import METHODS, window_loss

    settings = SETS[name]
    parts = load_classified(settings, folder)
    inputs = {split: torch.tensor(part.inputs()) for split, part in parts.items()}
    places = {split: tensors(part.windows) for split, part in parts.items()}
    train = places["train"]
    labels = torch.tensor(parts["train"].classes)[train["series"]]
    classes = int(labels.max()) + 1
    channels = inputs["train"].shape[1] - 1

    def model(width: int) -> Any:
        return WindowClassifier(channels, width, classes, settings.dilations)

    def accuracy(model: Any, split: str) -> dict[str, float]:
        logits = torch.log_softmax(model(inputs[split]), 1)
        summed = torch.zeros(len(parts[split].classes), classes)
        summed = summed.index_add(0, places[split]["series"], logits)
        right = summed.argmax(1).numpy() == parts[split].classes
        return {"accuracy %": 100 * float(right.mean())}

    torch.manual_seed(0)
    teacher = train_teacher(
        model(settings.widths[0]),
        inputs["train"],
        lambda logits, rows: torch.nn.functional.cross_entropy(logits, labels[rows]),
        3 if options.quick else 60,
        lr=1e-2,
    )
    with torch.no_grad():
        teacher_logits = teacher(inputs["train"])

    def loss(method: str, model: Any, rows: Any, progress: float) -> Any:
        student = model(inputs["train"][rows])
        where = {field: column[rows] for field, column in train.items()}
        return window_loss(method, student, teacher_logits[rows], labels[rows], progress, where)

    task = Task(
        name,
        lambda: model(settings.widths[1]),
        lambda order: shuffled(order, len(labels), 64),
        loss,
        accuracy,
        options.methods or METHODS,
        epochs=options.epochs or (2 if options.quick else settings.epochs),
        lr=0.01 if options.quick else 0.02,
    )
    student = compare(task, options, teacher)
    export_pair(student, teacher, options.out / f"{name}.onnx", inputs["test"][:4].numpy())


def forecaster(options: argparse.Namespace, folder: Path) -> None:
    """Compare the losses on forecasts, real-valued and turned into distributions over bins."""
    from recipes.comparing.tasks import Task, compare
    from recipes.export import export_pair
    from recipes.models.series import Forecaster, shuffled, train_teacher
    from recipes.sequence_losses import METHODS, OVERLAP, window_loss

    windows = load_pressure(folder)
    values = {
        split: torch.tensor(one.values[:, :, 0], dtype=torch.float32)
        for split, one in windows.items()
    }
    places = tensors(windows["train"])
    inputs = {split: one[:, :CONTEXT] for split, one in values.items()}
    targets = {split: one[:, CONTEXT:] for split, one in values.items()}
    edges = forecast_bins(targets["train"].numpy(), BINS)
    bins = {split: bin_labels(one, edges).long() for split, one in targets.items()}
    mean, deviation = float(targets["train"].mean()), float(targets["train"].std())

    def metrics(model: Any, split: str) -> dict[str, float]:
        forecast = model(inputs[split])
        logits = forecast_to_logits(forecast, edges)
        nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), bins[split].flatten())
        mae = (forecast - targets[split]).abs().mean()
        return {"MAE, mmHg": float(mae), "bins, nats": float(nll)}

    torch.manual_seed(0)
    teacher = train_teacher(
        Forecaster(160, mean, deviation),
        inputs["train"],
        lambda forecast, rows: (forecast - targets["train"][rows]).abs().mean(),
        5 if options.quick else 60,
        lr=3e-3,
    )
    with torch.no_grad():
        teacher_logits = forecast_to_logits(teacher(inputs["train"]), edges)

    def loss(method: str, model: Any, rows: Any, progress: float) -> Any:
        forecast = model(inputs["train"][rows])
        if method == "mae":
            return (forecast - targets["train"][rows]).abs().mean()
        student = forecast_to_logits(forecast, edges)
        where = {field: column[rows] for field, column in places.items()}
        labels = bins["train"][rows]
        return window_loss(method, student, teacher_logits[rows], labels, progress, where)

    task = Task(
        "forecast",
        lambda: Forecaster(12, mean, deviation),
        lambda order: shuffled(order, len(bins["train"]), 32),
        loss,
        metrics,
        options.methods or ("mae", *METHODS, f"mcld:{OVERLAP}"),
        epochs=options.epochs or (2 if options.quick else 10),
        lr=0.01 if options.quick else 0.02,
        higher_is_better=False,
    )
    student = compare(task, options, teacher)
    batch = inputs["test"][:4].numpy()
    path = options.out / "forecast.onnx"
    export_pair(student, teacher, path, batch, output_names=["forecast"])


def tensors(windows: Windows) -> dict[str, Any]:
    """Return the places of the windows, the arguments of `window_mcld_loss`."""
    fields = ("starts", "lengths", "series")
    return {field: torch.tensor(np.asarray(getattr(windows, field))) for field in fields}


if __name__ == "__main__":
    raise SystemExit(main())

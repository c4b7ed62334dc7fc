"""Distil time-series models on overlapping windows: two classifiers and a forecaster.

    pip install 'mcld[torch,examples,onnx]'
    pip install --no-deps aeon
    python examples/timeseries_vowels.py

The data are read from the package `aeon`, which need not be importable; nothing is downloaded.

- vowels: JapaneseVowels, 9 speakers, 12 channels of 7 to 29 steps;
- leaf: OSULeaf, 6 kinds of leaves, 427 steps;
- forecast: an arterial blood pressure, 24 values ahead, as distributions over bins.

Teachers are convolutions that are trained here, students have a tenth of the weights or less.
``--quick`` takes under a minute: few epochs, one seed, no tuning. Everything goes to ``--out``:
tables, curves, every number, and the students as ONNX files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from recipes.logs import say

from mcld_core.extensions.timeseries import (
    Windows,
    bin_labels,
    cut_windows,
    forecast_bins,
    forecast_to_logits,
    window_mcld_loss,
)

METHODS = ("ce", "kd", "mcld", "mcld+ce", "instance", "sample", "category")
FORECAST_METHODS = ("mae", *METHODS[:3], "mcld, overlap not masked", *METHODS[3:])
CONTEXT, HORIZON, BINS = 64, 24, 16
ALONE = {"weight_instance": 0.0, "weight_sample": 0.0, "weight_category": 0.0}
WEIGHTS: dict[str, dict[str, float]] = {
    "mcld": {},
    "mcld+ce": {"weight_ce": 1.0},
    "mcld, overlap not masked": {},
    "instance": ALONE | {"weight_instance": 1.0},
    "sample": ALONE | {"weight_sample": 1.0},
    "category": ALONE | {"weight_category": 1.0, "category_warmup": 0.0},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; return the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    parts = ["vowels", "leaf", "forecast"]
    add("--parts", nargs="+", choices=parts, default=parts)
    add("--quick", action="store_true", help="few epochs, one seed, no tuning of learning rates")
    add("--seeds", type=int, nargs="+", help="default: 0 1 2 3 4; quick: 0")
    add("--methods", nargs="+", choices=FORECAST_METHODS, help="default: all of a part")
    add("--epochs", type=int, help="of the students; default: by part")
    add("--data-dir", type=Path, help="a folder laid out as aeon/datasets/data")
    add("--out", type=Path, default=Path("runs/timeseries_vowels"))
    add("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    options.seeds = options.seeds or ([0] if options.quick else [0, 1, 2, 3, 4])
    folder = options.data_dir or packaged_data()

    import torch
    from recipes.torch_compare import environment

    torch.set_num_threads(options.threads)
    say(environment())
    if "vowels" in options.parts:
        classifier(options, folder, "JapaneseVowels", "vowels", (10, 5), (64, 16), 20)
    if "leaf" in options.parts:
        classifier(options, folder, "OSULeaf", "leaf", (128, 64), (48, 12), 10)
    if "forecast" in options.parts:
        forecaster(options, folder)
    return 0


def chosen(options: argparse.Namespace, methods: Sequence[str]) -> list[str]:
    """Return the methods of a part that were asked for."""
    return [name for name in methods if options.methods is None or name in options.methods]


def packaged_data() -> Path:
    """Return the data folder inside `aeon`."""
    try:
        package = metadata.distribution("aeon")
    except metadata.PackageNotFoundError:
        raise SystemExit(
            "the series come with aeon: pip install --no-deps aeon, or pass --data-dir"
        ) from None
    return Path(str(package.locate_file("aeon/datasets/data")))


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Read a .ts file: a series a line, ``:`` between channels, ``,`` between steps, the class."""
    series, labels = [], []
    lines = path.read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().lower() == "@data")
    for line in lines[start + 1 :]:
        if line.strip():
            *channels, label = line.strip().split(":")
            series.append(np.asarray([channel.split(",") for channel in channels], float).T)
            labels.append(label)
    return series, labels


# --- one row of logits a window -----------------------------------------------------------------


def classifier(
    options: argparse.Namespace,
    folder: Path,
    dataset: str,
    name: str,
    cut: tuple[int, int],
    widths: tuple[int, int],
    epochs: int,
) -> None:
    """Compare the losses on classified windows; a series has the class of its mean logits."""
    import torch
    from recipes.torch_compare import Task, compare

    from mcld_core.export import export_onnx

    series, names = read_ts(folder / dataset / f"{dataset}_TRAIN.ts")
    kinds = sorted(set(names))
    order = np.random.default_rng(0).permutation(len(series))
    held_out = len(series) // 5
    mean = np.concatenate(series).mean(0)
    deviation = np.concatenate(series).std(0)
    rows_of = {"train": order[held_out:], "validation": order[:held_out]}
    raw = {
        part: ([series[i] for i in rows], [names[i] for i in rows])
        for part, rows in rows_of.items()
    }
    raw["test"] = read_ts(folder / dataset / f"{dataset}_TEST.ts")
    windows = {
        part: cut_windows([(one - mean) / deviation for one in some], *cut)
        for part, (some, _) in raw.items()
    }
    of_series = {
        part: np.asarray([kinds.index(kind) for kind in labels])
        for part, (_, labels) in raw.items()
    }
    data = {part: tensors(one) for part, one in windows.items()}
    labels = torch.tensor(of_series["train"])[data["train"]["series"]]

    def accuracy(model: Any, part: str) -> dict[str, float]:
        logits = torch.log_softmax(model(data[part]["values"]), 1)
        summed = torch.zeros(len(of_series[part]), len(kinds))
        summed = summed.index_add(0, data[part]["series"], logits)
        right = summed.argmax(1).numpy() == of_series[part]
        return {"accuracy %": 100 * float(right.mean())}

    channels = series[0].shape[1]
    torch.manual_seed(0)
    teacher = fit(
        convolutions(channels, widths[0], len(kinds)),
        data["train"]["values"],
        lambda logits, rows: torch.nn.functional.cross_entropy(logits, labels[rows]),
        3 if options.quick else 2 * epochs,
    )
    with torch.no_grad():
        teacher_logits = teacher(data["train"]["values"])
        baselines = accuracy(teacher, "test")

    def loss(method: str, model: Any, rows: Any, progress: float) -> Any:
        part = {field: tensor[rows] for field, tensor in data["train"].items()}
        student = model(part["values"])
        places = {field: part[field] for field in ("starts", "lengths", "series")}
        return logit_loss(
            method,
            student,
            teacher_logits[rows],
            labels[rows],
            progress,
            places,
            labels=labels[rows],
        )

    task = Task(
        name,
        lambda: convolutions(channels, widths[1], len(kinds)),
        lambda order: shuffled(order, len(labels), 64),
        loss,
        accuracy,
        chosen(options, METHODS),
        epochs=options.epochs or (2 if options.quick else epochs),
        learning_rates=(1e-2,) if options.quick else (1e-2, 3e-2),
        baselines=baselines,
    )
    student = compare(task, options.seeds, options.out)
    say(f"teacher: {sum(p.numel() for p in teacher.parameters()):,} parameters")
    say(
        str(
            export_onnx(
                student,
                options.out / f"{name}.onnx",
                example_input=data["test"]["values"][:4].numpy(),
            )
        )
    )


def logit_loss(
    method: str,
    student: Any,
    teacher: Any,
    targets: Any,
    progress: float,
    places: dict[str, Any],
    **more: Any,
) -> Any:
    """Return the loss of a method on logits (windows, classes) or (windows, steps, bins)."""
    import torch

    from mcld_core import MCLDConfig, kd_loss

    if method in ("ce", "kd"):
        classes = student.shape[-1]
        rows, targets = student.reshape(-1, classes), targets.reshape(-1)
        ce = torch.nn.functional.cross_entropy(rows, targets)
        if method == "ce":
            return ce
        return 0.5 * ce + 0.5 * kd_loss(rows, teacher.reshape(-1, classes), temperature=2.0)
    if method.endswith("not masked"):
        places = {}
    return window_mcld_loss(
        student,
        teacher,
        **places,
        **more,
        progress=progress,
        config=MCLDConfig(**WEIGHTS[method]),
    )


def tensors(windows: Windows) -> dict[str, Any]:
    """Return the windows as tensors: values are (windows, channels, steps)."""
    import torch

    found = {
        field: torch.tensor(getattr(windows, field)) for field in ("starts", "lengths", "series")
    }
    return found | {"values": torch.tensor(windows.values, dtype=torch.float32).transpose(1, 2)}


def shuffled(order: np.random.Generator, count: int, size: int) -> Iterator[Any]:
    """Yield the rows of an epoch's batches."""
    import torch

    for rows in np.array_split(order.permutation(count), max(1, count // size)):
        yield torch.tensor(rows)


def convolutions(channels: int, width: int, outputs: int) -> Any:
    """Three convolutions, the mean over the steps, a linear head."""
    from torch import nn

    layers: list[Any] = []
    for inputs, size in ((channels, 7), (width, 5), (width, 3)):
        layers += [
            nn.Conv1d(inputs, width, size, padding=size // 2),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, outputs))


def fit(model: Any, inputs: Any, loss: Callable[[Any, Any], Any], epochs: int) -> Any:
    """Train a teacher on ``loss(outputs, rows)``."""
    import torch

    order = np.random.default_rng(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / epochs)
    for _ in range(epochs):
        for rows in shuffled(order, len(inputs), 64):
            value = loss(model(inputs[rows]), rows)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        schedule.step()
    return model.eval()


# --- one row of logits a step of the forecast ---------------------------------------------------


def forecaster(options: argparse.Namespace, folder: Path) -> None:
    """Compare the losses on forecasts, real-valued and turned into distributions over bins."""
    import torch
    from recipes.torch_compare import Task, compare

    from mcld_core.export import export_onnx

    name = "135_UCR_Anomaly_InternalBleeding16"
    rows = (folder / "KDD-TSAD_135" / f"{name}_TEST.csv").read_text("utf-8").splitlines()[1:]
    pressure = np.asarray([float(row.split(",")[1]) for row in rows])[::2]
    ends = {"train": 0.6, "validation": 0.75, "test": 1.0}
    data, targets, first = {}, {}, 0
    for part, share in ends.items():
        last = int(share * len(pressure))
        cut = cut_windows([pressure[first:last]], CONTEXT + HORIZON, 4)
        whole = cut.lengths == CONTEXT + HORIZON
        cut = Windows(*(field[whole] for field in cut))
        data[part] = tensors(cut)
        targets[part] = data[part]["values"][:, 0, CONTEXT:]
        first = last
    mean, deviation = float(targets["train"].mean()), float(targets["train"].std())
    inputs = {
        part: (one["values"][:, :, :CONTEXT] - mean) / deviation for part, one in data.items()
    }
    edges = forecast_bins(targets["train"].numpy(), BINS)
    bins = torch.as_tensor(bin_labels(targets["train"], edges)).long()

    def model(width: int) -> Any:
        return Forecaster(width, mean, deviation)

    def logits(forecast: Any) -> Any:
        return forecast_to_logits(forecast, edges)

    def metrics(model: Any, part: str) -> dict[str, float]:
        forecast = model(inputs[part])
        nll = torch.nn.functional.cross_entropy(
            logits(forecast).flatten(0, 1), bin_labels(targets[part], edges).flatten().long()
        )
        return {
            "MAE, mmHg": float((forecast - targets[part]).abs().mean()),
            "bins, nats": float(nll),
        }

    Forecaster = forecaster_class()
    torch.manual_seed(0)
    teacher = fit(
        model(160),
        inputs["train"],
        lambda forecast, rows: (forecast - targets["train"][rows]).abs().mean(),
        5 if options.quick else 60,
    )
    with torch.no_grad():
        teacher_logits = logits(teacher(inputs["train"]))
        baselines = metrics(teacher, "test")

    def loss(method: str, model: Any, rows: Any, progress: float) -> Any:
        forecast = model(inputs["train"][rows])
        if method == "mae":
            return (forecast - targets["train"][rows]).abs().mean()
        places = {field: data["train"][field][rows] for field in ("starts", "lengths", "series")}
        return logit_loss(
            method,
            logits(forecast),
            teacher_logits[rows],
            bins[rows],
            progress,
            places,
            step_labels=bins[rows],
            category="step",
        )

    task = Task(
        "forecast",
        lambda: model(12),
        lambda order: shuffled(order, len(bins), 32),
        loss,
        metrics,
        chosen(options, FORECAST_METHODS),
        epochs=options.epochs or (2 if options.quick else 8),
        learning_rates=(1e-2,) if options.quick else (1e-2, 3e-2),
        higher_is_better=False,
        baselines=baselines,
    )
    student = compare(task, options.seeds, options.out)
    say(f"teacher: {sum(p.numel() for p in teacher.parameters()):,} parameters")
    say(
        str(
            export_onnx(
                student,
                options.out / "forecast.onnx",
                output_names=["forecast"],
                example_input=inputs["test"][:4].numpy(),
            )
        )
    )


def forecaster_class() -> Any:
    """A network of one hidden layer on the last values, in and out in the units of the series."""
    import torch
    from torch import nn

    class Forecaster(nn.Module):
        def __init__(self, width: int, mean: float, deviation: float) -> None:
            super().__init__()
            self.mean, self.deviation = mean, deviation
            self.layers = nn.Sequential(
                nn.Flatten(), nn.Linear(CONTEXT, width), nn.ReLU(), nn.Linear(width, HORIZON)
            )

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.mean + self.deviation * self.layers(values)

    return Forecaster


if __name__ == "__main__":
    raise SystemExit(main())

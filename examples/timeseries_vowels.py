"""Distil a time-series classifier on overlapping windows: which of 9 speakers said it?

    pip install '.[torch,examples,onnx]'
    pip install --no-deps aeon
    python examples/timeseries_vowels.py

JapaneseVowels (12 channels of 7 to 29 steps) is read from the package `aeon`, which need not be
importable. A series has the class of its windows' summed log-probabilities; `window_mcld_loss` does
not contrast windows that share a step. Numbers, plot and ONNX file go to ``--out``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mcld_core import MCLDConfig, export_onnx, kd_loss
from mcld_core.extensions.timeseries import cut_windows, window_mcld_loss

CONFIG = MCLDConfig(weight_ce=1.0)


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Read a .ts file into series (time, channels) of any lengths, and their classes."""
    series, labels = [], []
    text = path.read_text("utf-8")
    for line in text[text.lower().index("@data") + 5 :].split():
        *channels, label = line.split(":")
        series.append(np.asarray([channel.split(",") for channel in channels], float).T)
        labels.append(label)
    return series, labels


class Part:
    """The windows of some series: inputs, whose last channel is 1 within the series, and places."""

    def __init__(self, series: list[np.ndarray], classes: np.ndarray) -> None:
        windows = cut_windows(series, 10, 5)
        values = np.concatenate([windows.values, windows.mask[:, :, None]], 2).transpose(0, 2, 1)
        self.inputs, self.classes = torch.tensor(values, dtype=torch.float32), classes
        fields = ("starts", "lengths", "series")
        self.places = {name: torch.tensor(np.asarray(getattr(windows, name))) for name in fields}
        self.labels = torch.tensor(classes)[self.places["series"]]

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Return the percentage of series whose windows together have the right class."""
        rows = torch.log_softmax(model.eval()(self.inputs), 1)
        summed = torch.zeros(len(self.classes), rows.shape[1])
        summed = summed.index_add(0, self.places["series"], rows)
        return 100 * float(np.mean(summed.argmax(1).numpy() == self.classes))


class Classifier(nn.Module):
    """Three convolutions, mean and maximum over the valid steps, a linear head."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        shapes = (channels, width, 7), (width, width, 5), (width, width, 3)
        layers = ((nn.Conv1d(*x, padding="same"), nn.BatchNorm1d(width), nn.ReLU()) for x in shapes)
        self.layers = nn.ModuleList(nn.Sequential(*layer) for layer in layers)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, values: Tensor) -> Tensor:
        """Return (windows, classes) of (windows, channels + 1, steps)."""
        valid, x = values[:, -1:], values[:, :-1]
        for layer in self.layers:
            x = layer(x) * valid
        return self.head(torch.cat([x.sum(2) / valid.sum(2), x.amax(2)], 1))


def fit(
    model: nn.Module, part: Part, test: Part, loss: Callable[..., Tensor], epochs: int
) -> list[float]:
    """Train by Adam on ``loss(logits, rows, progress)``; return the test accuracy by epoch."""
    steps, scores = epochs * -(-len(part.labels) // 64), []
    optimizer, step = torch.optim.Adam(model.parameters(), 0.02), 0
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(part.labels)).tensor_split(steps // epochs):
            optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
            optimizer.zero_grad()
            loss(model(part.inputs[rows]), rows, step / steps).backward()
            optimizer.step()
            step += 1
        scores.append(test.accuracy(model))
    return scores


def main(argv: Sequence[str] | None = None) -> None:
    """Train a teacher and students, write numbers, plot and ONNX."""
    add = (parser := argparse.ArgumentParser(description=__doc__.splitlines()[0])).add_argument
    add("--data-dir", type=Path, help="with JapaneseVowels/JapaneseVowels_*.ts")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs", type=int, default=20)
    add("--out", type=Path, default=Path("runs/timeseries_vowels"))
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        folder = options.data_dir or metadata.distribution("aeon").locate_file("aeon/datasets/data")
        names = (f"JapaneseVowels/JapaneseVowels_{part}.ts" for part in ("TRAIN", "TEST"))
        read = [read_ts(Path(folder, name)) for name in names]
    except (ImportError, OSError) as error:
        raise SystemExit(f"error: {error}; pip install --no-deps aeon, or --data-dir") from None
    kinds, every = sorted(set(read[0][1])), np.concatenate(read[0][0])
    scaled = ([(one - every.mean(0)) / every.std(0) for one in series] for series, _ in read)
    numbers = (np.asarray([kinds.index(label) for label in labels]) for _, labels in read)
    train, test = map(Part, scaled, numbers)
    channels = every.shape[1]
    torch.manual_seed(0)
    teacher = Classifier(channels, 64, len(kinds))
    by_labels = lambda s, i, progress: cross_entropy(s, train.labels[i])  # noqa: E731
    print(f"teacher: {fit(teacher, train, test, by_labels, options.epochs)[-1]:.1f} % right")
    with torch.no_grad():
        rows = teacher(train.inputs)
    losses = {
        "CE": by_labels,
        "KD + CE": lambda s, i, progress: kd_loss(s, rows[i]) + by_labels(s, i, progress),
        "MCLD + CE": lambda s, i, p: window_mcld_loss(
            s, rows[i], train.labels[i], config=CONFIG, progress=p,
            **{name: place[i] for name, place in train.places.items()},
        ),
    }  # fmt: skip
    (_, axes), found = pyplot.subplots(figsize=(7, 4), layout="constrained"), {}
    for name, loss in losses.items():
        for seed in options.seeds:
            torch.manual_seed(seed)
            student = Classifier(channels, 16, len(kinds))
            found.setdefault(name, []).append(fit(student, train, test, loss, options.epochs))
        curve = np.mean(found[name], 0)
        print(f"{name}: {curve[-1]:.1f} % right, the mean over {len(options.seeds)} seeds")
        axes.plot(range(1, options.epochs + 1), curve, label=name)
    axes.set(xlabel="epoch", ylabel="test accuracy, %")
    axes.legend()
    axes.figure.savefig(options.out / "accuracy.png")
    (options.out / "numbers.json").write_text(json.dumps(found))
    print(export_onnx(student, options.out / "student.onnx", example_input=test.inputs[:4].numpy()))


if __name__ == "__main__":
    main()

"""Losses on windows of series: ``python -m benchmarks.comparison --dataset leaf --trials 6``.

The series come inside the packages aeon and sktime, which need not be importable; or they lie in
--data-dir, laid out as aeon/datasets/data. A series has the class of the mean of its windows'
log-probabilities. "windows" is `window_mcld_loss`: windows of one series that share a step are not
compared.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.compare import Study, Task
from benchmarks.data import packaged
from benchmarks.fit import InMemory, Rows, fit, predict
from benchmarks.losses import Loss, loss_of, settings_of
from benchmarks.networks import WindowClassifier
from examples.timeseries_vowels import read_ts
from mcld_core import MCLDConfig
from mcld_core.extensions.timeseries import Windows, cut_windows, window_mcld_loss

ROWS = {
    "CE": "ce",
    "CE + KD": "kd:weight_ce=1,weight={w},temperature={t}",
    "CE + DKD": "dkd:weight={w},beta={b}",
    "CE + sample-wise": "sample:weight_sample={w}",
    "MCLD": "mcld:weight_sample={s}",
    "MCLD + CE": "mcld-ce:weight_sample={s}",
    "MCLD + CE, windows": "mcld-ce:weight_sample={s}",
}
CPU = torch.device("cpu")


class Set(NamedTuple):
    """Where a set is, how it is cut, channels of teacher and student, and the student's epochs."""

    name: str
    package: str
    length: int
    stride: int
    widths: tuple[int, int]
    epochs: int
    dilations: tuple[int, int, int] = (1, 1, 1)
    arcsinh: float = 0.0
    """Values become arcsinh(arcsinh · value), for those that span orders of magnitude."""


SETS = {
    "vowels": Set("JapaneseVowels", "aeon", 10, 5, (64, 16), 20),
    "leaf": Set("OSULeaf", "aeon", 128, 64, (48, 12), 60, (1, 4, 16)),
    "plaid": Set("PLAID", "sktime", 200, 100, (48, 12), 40, (1, 4, 16), 1000.0),
}


def read(some: Set, folder: Path) -> dict[str, tuple[Rows, Windows]]:
    """Return windows of training, validation (a fifth of the training file) and test series."""
    files = {
        part: read_ts(folder / some.name / f"{some.name}_{part}.ts") for part in ("TRAIN", "TEST")
    }
    kinds = {kind: number for number, kind in enumerate(sorted(set(files["TRAIN"][1])))}
    order = np.random.default_rng(0).permutation(len(files["TRAIN"][0]))
    held = len(order) // 5
    chosen = {"train": ("TRAIN", order[held:]), "validation": ("TRAIN", order[:held])}
    chosen["test"] = ("TEST", np.arange(len(files["TEST"][0])))
    series = {part: [files[file][0][i] for i in rows] for part, (file, rows) in chosen.items()}
    if some.arcsinh:
        series = {k: [np.arcsinh(some.arcsinh * one) for one in v] for k, v in series.items()}
    every, found = np.concatenate(series["train"]), {}
    for part, (file, rows) in chosen.items():
        scaled = [(one - every.mean(0)) / every.std(0) for one in series[part]]
        cut = cut_windows(scaled, some.length, some.stride)
        x = np.concatenate([cut.values, cut.mask[:, :, None]], 2).transpose(0, 2, 1)
        labels = np.asarray([kinds[files[file][1][i]] for i in rows])[cut.series]
        found[part] = Rows(torch.tensor(x, dtype=torch.float32), torch.tensor(labels)), cut
    return found


def task(some: Set, parts: dict[str, tuple[Rows, Windows]], seed: int) -> Task:
    """Train a teacher; the places of a window stand in three columns behind its logits."""
    train, cut = parts["train"]
    classes, channels = int(train.y.max()) + 1, train.x.shape[1] - 1

    def build(width: int) -> nn.Module:
        return WindowClassifier(channels, width, classes, some.dilations)

    def score(model: nn.Module, part: str) -> dict[str, float]:
        rows, windows = parts[part]
        series = torch.from_numpy(windows.series).long()
        count = int(series.max()) + 1
        logits = predict(model, rows.x).log_softmax(1)
        summed = torch.zeros(count, classes).index_add(0, series, logits)
        labels = torch.zeros(count, dtype=torch.int64).index_copy(0, series, rows.y)
        return {"accuracy": 100 * float((summed.argmax(1) == labels).double().mean())}

    teacher = fit(
        partial(build, some.widths[0]),
        InMemory(train, 64),
        loss_of("ce"),
        epochs=60,
        lr=0.01,
        seed=seed + 1000,
        optimizer="adamw",
        where=CPU,
    )
    places = torch.tensor(np.stack([cut.starts, cut.lengths, cut.series], 1)).float()
    taught = train._replace(teacher=torch.cat([predict(teacher, train.x), places], 1))
    return Task(taught, partial(build, some.widths[1]), score, score(teacher, "test"))


def row_loss(row: str, text: str, task: Task) -> Loss:
    """Return the loss of a row of the table."""
    plain, windows = loss_of(text), row.endswith(", windows")
    config = MCLDConfig(**settings_of(text)[1]) if windows else None

    def loss(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, progress: float) -> torch.Tensor:
        if config is None:
            return plain(s, t[:, :-3], y, progress)
        names = ("starts", "lengths", "series")
        places: dict[str, Any] = dict(zip(names, t[:, -3:].long().T, strict=True))
        return window_mcld_loss(s, t[:, :-3], y, config=config, progress=progress, **places)

    return loss


def study(name: str, folder: Path) -> Study:
    """Return the study of a set."""
    some = SETS[name]
    folder = folder if folder.is_dir() else packaged(some.package, f"{some.package}/datasets/data")
    parts = read(some, folder)
    options = {"epochs": some.epochs, "batch": 64, "optimizer": "adamw", "where": CPU}
    tests = int(parts["test"][1].series.max()) + 1
    return Study(ROWS, partial(task, some, parts), options, 0.02, tests, row_loss)

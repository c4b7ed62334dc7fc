"""Where pictures lie: class folders, Tiny-ImageNet's folders, TFRecord shards, or arrays.

Three splits that are read when they are needed; `tf_input` makes batches of them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..files import DataError
from ..logs import say
from . import Dataset, Split
from .folders import MAX_PIXELS, SUFFIXES, TINY, list_classes, list_tinyimagenet

OPENCLIPART = Path("/usr/share/openclipart/png")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NO_CLASSES = re.compile(r"shapes/stars|special|unsorted|computer/icons|logos")

_IMAGENET: dict[str, Any] = {
    "teacher": ["resnet34"], "student": "resnet18", "epochs": 100, "teacher_epochs": 100,
    "batch_size": 512, "eval_batch_size": 250, "lr": 0.2, "teacher_lr": 0.2, "weight_decay": 1e-4,
    "flip": True, "random_resized_crop": True, "image_size": 224, "crop": 0,
}  # fmt: skip
_OPENCLIPART = _IMAGENET | {
    "teacher": ["conv-32"], "student": "conv-8", "epochs": 30, "teacher_epochs": 30,
    "batch_size": 64, "lr": 0.05, "teacher_lr": 0.05, "weight_decay": 5e-4, "schedule": "cosine",
    "image_size": 64, "validation_size": 200,
}  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {
    "imagenet": _IMAGENET,
    "folder": _IMAGENET,
    "tinyimagenet": _IMAGENET | {"image_size": 64, "batch_size": 256, "lr": 0.1},
    "openclipart": _OPENCLIPART,
}
"""Option values by data set: ImageNet's are the 100-epoch recipe's."""


@dataclass(frozen=True)
class Files:
    """Picture files with their labels."""

    paths: list[str]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: NDArray[np.int64]) -> Files:
        """Return the files ``index``."""
        return Files([self.paths[number] for number in index], self.labels[index])


class Shard(NamedTuple):
    """``count`` records of a file, from number ``first`` on."""

    path: str
    first: int
    count: int


@dataclass(frozen=True)
class Records:
    """TFRecord shards of examples with ``image/encoded`` and ``image/class/label``."""

    shards: list[Shard]
    first_label: int
    labels: NDArray[np.int64] | None = None
    """Known once the split was read through, in the order of the shards."""

    def __len__(self) -> int:
        return sum(shard.count for shard in self.shards)

    def cut(self, size: int) -> tuple[Records, Records]:
        """Return ``size`` records, from the head of every shard alike, and the others."""
        ends = np.cumsum([0, *(shard.count for shard in self.shards)]) * size // max(len(self), 1)
        heads, others = [], []
        for (path, first, count), head in zip(self.shards, np.diff(ends).tolist(), strict=True):
            heads.append(Shard(path, first, head))
            others.append(Shard(path, first + head, count - head))
        parts = [[shard for shard in shards if shard.count] for shards in (heads, others)]
        return Records(parts[0], self.first_label), Records(parts[1], self.first_label)


Pictures = Files | Records | Split


@dataclass(frozen=True)
class PictureSet:
    """Three splits, as `recipes.data.Dataset` has them, whose pictures are read when needed."""

    name: str
    class_names: tuple[str, ...]
    train: Pictures
    validation: Pictures
    test: Pictures
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.class_names)

    def __str__(self) -> str:
        return (
            f"{self.name}: {len(self.train):,} training, {len(self.validation):,} validation, "
            f"{len(self.test):,} test images, {self.classes} classes"
        )


def load_pictures(
    name: str,
    folder: Path,
    *,
    image_size: int,
    validation_size: int = 0,
    train_size: int | None = None,
    first_label: int = 1,
) -> PictureSet:
    """Find the pictures of ``openclipart``, or of ``imagenet`` and others in folders or TFRecords.

    Raises:
        DataError: a missing folder or class, a damaged shard, no picture, or less than asked for.
    """
    pool: Files | Records
    test: Files | Records
    if list(folder.glob("train-*-of-*")):
        names = [str(number) for number in range(1000)]
        pool, test = (
            _records_of(sorted(folder.glob(f"{part}-*-of-*")), folder, first_label)
            for part in ("train", "validation")
        )
    elif name == "openclipart":
        names, pool, test = _openclipart(folder if folder.is_dir() else OPENCLIPART)
    else:
        names, pool, test = _folders(folder)
    wanted = len(pool) - validation_size if train_size is None else train_size
    if wanted < 1 or validation_size < 0 or validation_size + wanted > len(pool):
        raise DataError(
            f"{name} has {len(pool)} training pictures; got --train-size {wanted} and "
            f"--validation-size {validation_size}"
        )
    train, validation = _cut(pool, wanted, validation_size)
    return PictureSet(name, tuple(names), train, validation, test, (image_size, image_size, 3))


def pictures_of(data: Dataset) -> PictureSet:
    """Return a data set of arrays as one of pictures, as they are."""
    names = tuple(data.class_names)
    return PictureSet(
        data.name, names, data.train, data.validation, data.test, data.image_shape, data.mean,
        data.std,
    )  # fmt: skip


def _cut(
    pool: Files | Records, wanted: int, validation_size: int
) -> tuple[Files | Records, Files | Records]:
    """Return training and validation split, the same whatever the run's seed.

    Files are permuted by a fixed generator, as `recipes.data` does it. Records are read in order,
    so a random few of them would cost as much as all: they come from the heads of the shards.
    """
    if isinstance(pool, Records):
        validation, others = pool.cut(validation_size)
        return others.cut(wanted)[0], validation
    order = np.random.default_rng(0).permutation(len(pool))
    train = order[validation_size : validation_size + wanted]
    return pool.take(train), pool.take(order[:validation_size])


def _folders(root: Path) -> tuple[list[str], Files, Files]:
    """Return the classes, training and test pictures of class folders or of Tiny-ImageNet's."""
    tiny = (root / "val" / "val_annotations.txt").is_file() or (root / TINY).is_dir()
    train, test, names = list_tinyimagenet(root) if tiny else list_classes(root)
    return names, _files(train.paths, train.labels), _files(test.paths, test.labels)


def _openclipart(root: Path) -> tuple[list[str], Files, Files]:
    """Read the curated classes of Open Clip Art; every fifth picture of a class tests."""
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


@cache
def say_once(text: str) -> None:
    """Print a line, unless this process has printed it already."""
    say(text)


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


def _records_of(paths: list[Path], root: Path, first_label: int) -> Records:
    if not paths:
        raise DataError(f"{root} has train-…-of-… but no validation-…-of-… shards")
    return Records([Shard(str(path), 0, count_records(path)) for path in paths], first_label)


def count_records(path: Path) -> int:
    """Count the records of a shard by hopping over their lengths.

    A record is its length (8 bytes), a checksum (4), the bytes, a checksum (4).

    Raises:
        DataError: the shard ends within a record.
    """
    size, place, count = path.stat().st_size, 0, 0
    with open(path, "rb") as file:
        while place < size:
            file.seek(place)
            head = file.read(8)
            place += 16 + (struct.unpack("<Q", head)[0] if len(head) == 8 else size)
            count += 1
    if place != size:
        raise DataError(f"{path} ends within record {count}; copy it again")
    return count

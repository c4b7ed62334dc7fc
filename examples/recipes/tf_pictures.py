"""Where pictures lie: class folders, TFRecord shards, or arrays; each split knows its size."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .data import Split, load_dataset
from .logs import say
from .readers import DataError

OPENCLIPART = Path("/usr/share/openclipart/png")
SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp")
MAX_PIXELS = 40_000_000  # a larger PNG is left out: decoded, one takes gigabytes
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NO_CLASSES = re.compile(r"shapes/stars|special|unsorted|computer/icons|logos")


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
    classes: int
    train: Pictures
    validation: Pictures
    test: Pictures
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_shape: tuple[int, int, int]


def load_pictures(
    name: str,
    folder: Path,
    *,
    image_size: int,
    validation_size: int = 0,
    train_size: int | None = None,
    first_label: int = 1,
) -> PictureSet:
    """Find the pictures of ``digits``, ``openclipart`` or ``imagenet`` (folders or TFRecords).

    Raises:
        DataError: a missing folder or class, a damaged shard, no picture, or less than asked for.
    """
    if name == "digits":
        data = load_dataset(
            "digits", folder, train_size=train_size, validation_size=validation_size
        )
        return PictureSet(
            name, data.classes, data.train, data.validation, data.test, data.mean, data.std,
            data.image_shape,
        )  # fmt: skip
    shape = (image_size, image_size, 3)
    classes = 1000
    pool: Files | Records
    test: Files | Records
    if name == "imagenet" and list(folder.glob("train-*-of-*")):
        pool, test = (
            _records(sorted(folder.glob(f"{part}-*-of-*")), folder, first_label)
            for part in ("train", "validation")
        )
    else:
        if name == "imagenet":
            names, pool, test = _class_folders(folder)
        else:
            names, pool, test = _openclipart(folder if folder.is_dir() else OPENCLIPART)
        classes = len(names)
    wanted = len(pool) - validation_size if train_size is None else train_size
    if wanted < 1 or validation_size < 0 or validation_size + wanted > len(pool):
        raise DataError(
            f"{name} has {len(pool)} training pictures; got --train-size {wanted} and "
            f"--validation-size {validation_size}"
        )
    train, validation = _cut(pool, wanted, validation_size)
    return PictureSet(name, classes, train, validation, test, IMAGENET_MEAN, IMAGENET_STD, shape)


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


def _class_folders(root: Path) -> tuple[list[str], Files, Files]:
    """Read ``train/CLASS/…`` and ``val/CLASS/…``; both need the same classes."""
    train, val = root / "train", root / "val"
    for folder in (train, val):
        if not folder.is_dir():
            raise DataError(
                f"{folder} does not exist; --data-dir needs train/CLASS/… and val/CLASS/…, or "
                "TFRecords train-00000-of-01024 … and validation-00000-of-00128 …"
            )
    names = sorted(path.name for path in train.iterdir() if path.is_dir())
    others = {path.name for path in val.iterdir() if path.is_dir()}
    for where, missing in ((val, set(names) - others), (train, others - set(names))):
        if missing:
            raise DataError(
                f"{where} has no folder for {len(missing)} classes that the other split has, "
                f"such as {min(missing)!r}"
            )
    return names, *(_files([[root / part / name] for name in names]) for part in ("train", "val"))


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
    everything = _files([[root / name] for name in names])
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


def _files(classes: list[list[Path]]) -> Files:
    """List the pictures, class by class; an empty class is an error, a huge PNG is left out."""
    paths: list[str] = []
    labels: list[int] = []
    huge = 0
    for label, folders in enumerate(classes):
        found = [path for folder in folders for path in _listed(folder)]
        fitting = [path for path in found if _pixels(path) <= MAX_PIXELS]
        huge += len(found) - len(fitting)
        if not fitting:
            raise DataError(f"{folders[0]} holds no picture ({', '.join(SUFFIXES)})")
        paths += map(str, fitting)
        labels += [label] * len(fitting)
    if huge:
        say(f"skipped {huge} PNG files of more than {MAX_PIXELS:,} pixels")
    return Files(paths, np.asarray(labels, np.int64))


def _pixels(path: Path) -> int:
    """Return width × height of a PNG by its header; 0 for other files."""
    if path.suffix.lower() != ".png":
        return 0
    with open(path, "rb") as file:
        header = file.read(24)
    width, height = struct.unpack(">II", header[16:24]) if len(header) == 24 else (0, 0)
    return int(width * height)


def _records(paths: list[Path], root: Path, first_label: int) -> Records:
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

"""Where pictures lie: class folders, Tiny-ImageNet's folders, or TFRecord shards.

Three splits that are read when they are needed; `tf_pictures` decodes them.
"""

from __future__ import annotations

import argparse
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import say
from ..files import DataError
from ..options import TABLES
from . import Dataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DEFAULTS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("pictures.toml").read_text()
)
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


Pictures = Files | Any
"""Paths, or TFRecords (`records.Records`)."""


@dataclass(frozen=True)
class PictureSet(Dataset):
    """Three splits of square pictures, which are read when they are needed."""

    train: Pictures
    validation: Pictures
    test: Pictures
    side: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.side, self.side, 3


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of pictures, and their data sets to ``--dataset``."""
    parser.conflict_handler = "resolve"
    add = parser.add_argument_group("pictures").add_argument
    add("--dataset", choices=(*TABLES, "imagenet", "openclipart"), default="digits")
    add("--random-resized-crop", action=argparse.BooleanOptionalAction, default=False,
        help="train on random parts of the pictures, in place of --crop")  # fmt: skip
    add("--first-label", type=int, default=1, help="the least label in the TFRecords")


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the process, as argparse does, where options of pictures do not fit each other."""
    if options.teacher_cache and options.random_resized_crop and options.bank_size != "all":
        parser.error("--teacher-cache needs images that stay the same: --no-random-resized-crop")
    if options.download and options.dataset in DEFAULTS:
        parser.error("--download: get openclipart by apt-get install openclipart-png, ImageNet at "
                     "image-net.org, and pass --data-dir")  # fmt: skip
    if options.crop and options.random_resized_crop:
        parser.error("--crop shifts whole pictures: pass --no-random-resized-crop as well")


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
    if list(folder.glob("train-*-of-*")):
        from .records import find_records

        names, pool, test = find_records(folder, first_label)
    else:
        from .picture_files import find_openclipart, find_pictures

        find = find_openclipart if name == "openclipart" else find_pictures
        names, pool, test = find(folder)
    wanted = len(pool) - validation_size if train_size is None else train_size
    if wanted < 1 or validation_size < 0 or validation_size + wanted > len(pool):
        raise DataError(
            f"{name} has {len(pool)} training pictures; got --train-size {wanted} and "
            f"--validation-size {validation_size}"
        )
    train, validation = _cut(pool, wanted, validation_size)
    return PictureSet(name, tuple(names), train, validation, test, MEAN, STD, image_size)


def _cut(pool: Any, wanted: int, validation_size: int) -> tuple[Any, Any]:
    """Return training and validation split, the same whatever the run's seed.

    Files are permuted by a fixed generator, as `recipes.data` does it. Records are read in order,
    so a random few of them would cost as much as all: they come from the heads of the shards.
    """
    if not isinstance(pool, Files):
        validation, others = pool.cut(validation_size)
        return others.cut(wanted)[0], validation
    order = np.random.default_rng(0).permutation(len(pool))
    train = order[validation_size : validation_size + wanted]
    return pool.take(train), pool.take(order[:validation_size])


@cache
def say_once(text: str) -> None:
    """Print a line, unless this process has printed it already."""
    say(text)

"""TFRecord shards of pictures: found, counted, cut, and read by `tf.data`.

`pictures` and `tf_input` import this module where a folder has such shards.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ..files import DataError

FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
}


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

    def in_order(self) -> tf.data.Dataset:
        """Return (bytes of a picture, label)."""
        return _shards(self.shards).flat_map(_records).map(self._parse)

    def shuffled(
        self, rng: np.random.Generator, seed: int, workers: int, worker: int
    ) -> tuple[tf.data.Dataset, int]:
        """Return (bytes, label) of a worker's shards in a random order, and their number."""
        mine = self.shards[worker::workers]
        if not mine:
            raise DataError(f"{workers} workers need as many training shards at least")
        records = _shards([mine[number] for number in rng.permutation(len(mine))]).interleave(
            _records, cycle_length=16, num_parallel_calls=4, deterministic=True
        )
        return records.shuffle(8192, seed=seed).map(self._parse), sum(x.count for x in mine)

    def _parse(self, record: Any) -> tuple[Any, Any]:
        example = tf.io.parse_single_example(record, FEATURES)
        return example["image/encoded"], example["image/class/label"] - self.first_label


def find_records(folder: Path, first_label: int) -> tuple[list[str], Records, Records]:
    """Return the classes' numbers, and the shards for training and test.

    Raises:
        DataError: no shards for the test, or a damaged one.
    """
    found = []
    for part in ("train", "validation"):
        paths = sorted(folder.glob(f"{part}-*-of-*"))
        if not paths:
            raise DataError(f"{folder} has train-…-of-… but no validation-…-of-… shards")
        shards = [Shard(str(path), 0, count_records(path)) for path in paths]
        found.append(Records(shards, first_label))
    return [str(number) for number in range(1000)], found[0], found[1]


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


def _shards(shards: list[Shard]) -> tf.data.Dataset:
    paths, firsts, counts = zip(*shards, strict=True)
    numbers = (np.array(firsts, np.int64), np.array(counts, np.int64))
    return tf.data.Dataset.from_tensor_slices((list(paths), *numbers))


def _records(path: Any, first: Any, count: Any) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path).skip(first).take(count)

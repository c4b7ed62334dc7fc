"""Data sets by name, their splits, and batches that depend on nothing but the seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .downloads import OFFICIAL, fetch
from .readers import DataError, Images, Labels, read_cifar, read_idx_pair, read_stl10
from .tinyimagenet import read_tinyimagenet
from .udhr import read_udhr

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
DATASETS = ("digits", "fashion_mnist", "cifar10", "cifar100", "udhr")
TRANSFER_DATASETS = (*DATASETS, "stl10", "tinyimagenet")


@dataclass(frozen=True)
class Split:
    """Images (rows, height, width, channels) uint8 and labels (rows,) int64."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Split:
        """Return the rows ``index``."""
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """Three splits with what the models need to know of them.

    ``validation`` (perhaps empty) is for choices: learning rate, best epoch. ``test`` is only
    reported. ``mean`` and ``std`` are those of the training pixels in [0, 1], a value a channel.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


def load_dataset(
    name: str,
    data_dir: Path,
    *,
    download: bool = False,
    train_size: int | None = None,
    validation_size: int = 0,
) -> Dataset:
    """Read ``name`` and cut a validation split off its training images.

    The cut is the same whatever the run's seed, and stratified only by chance: rows are permuted
    by a fixed generator, the first ``validation_size`` validate, the next ``train_size`` (default:
    all the others) train.
    """
    if download and name in OFFICIAL:
        data_dir.mkdir(parents=True, exist_ok=True)
        fetch(name, data_dir)
    pool, test, classes = _READERS[name](data_dir)
    order = np.random.default_rng(0).permutation(len(pool))
    wanted = len(pool) - validation_size if train_size is None else train_size
    if wanted < 1 or validation_size < 0 or validation_size + wanted > len(pool):
        raise DataError(
            f"{name} has {len(pool)} training images; got --train-size {wanted} and "
            f"--validation-size {validation_size}"
        )
    train = pool.take(order[validation_size : validation_size + wanted])
    if name == "cifar100":  # the values of the published recipe
        mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    else:
        mean, std = _moments(train.images)
    return Dataset(name, classes, train, pool.take(order[:validation_size]), test, mean, std)


def _moments(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation a channel, from the counts of the 256 levels: little memory."""
    counts = np.zeros((images.shape[-1], 256))
    for start in range(0, len(images), 1024):
        rows = images[start : start + 1024]
        for channel, count in enumerate(counts):
            count += np.bincount(rows[..., channel].ravel(), minlength=256)
    counts /= counts.sum(1, keepdims=True)
    levels = np.arange(256) / 255
    mean = counts @ levels
    std = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(1))
    return tuple(mean.round(4).tolist()), tuple(std.round(4).tolist())


def _digits(_: Path) -> tuple[Split, Split, int]:
    """Read scikit-learn's digits: 1,797 images 8×8 of 17 grey levels; 449 of them for the test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) * (255 / 16)).round().astype(np.uint8)
    order = np.random.default_rng(1).permutation(len(labels))
    everything = Split(images, labels.astype(np.int64))
    return everything.take(order[449:]), everything.take(order[:449]), 10


def _fashion_mnist(folder: Path) -> tuple[Split, Split, int]:
    name = "train-images-idx3-ubyte.gz"
    if not (folder / name).is_file() and (DEBIAN_FASHION / name).is_file():
        folder = DEBIAN_FASHION
    splits = [
        Split(
            *read_idx_pair(
                folder / f"{part}-images-idx3-ubyte.gz", folder / f"{part}-labels-idx1-ubyte.gz", 10
            )
        )
        for part in ("train", "t10k")
    ]
    return splits[0], splits[1], 10


def _cifar10(folder: Path) -> tuple[Split, Split, int]:
    path = folder / "cifar-10-binary.tar.gz"
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return (
        Split(*read_cifar(path, batches, 1, 10)),
        Split(*read_cifar(path, ["test_batch.bin"], 1, 10)),
        10,
    )


def _cifar100(folder: Path) -> tuple[Split, Split, int]:
    path = folder / "cifar-100-binary.tar.gz"
    return (
        Split(*read_cifar(path, ["train.bin"], 2, 100)),
        Split(*read_cifar(path, ["test.bin"], 2, 100)),
        100,
    )


def _stl10(folder: Path) -> tuple[Split, Split, int]:
    path = folder / "stl10_binary.tar.gz"
    return Split(*read_stl10(path, "train")), Split(*read_stl10(path, "test")), 10


def _tinyimagenet(folder: Path) -> tuple[Split, Split, int]:
    train, val, classes = read_tinyimagenet(folder)
    return Split(*train), Split(*val), classes


def _udhr(folder: Path) -> tuple[Split, Split, int]:
    """Read paragraphs in many languages as pictures of one line: their hashed character counts."""
    features, labels, tests, languages = read_udhr(folder)
    everything = Split(features[:, None, :, None], labels)
    return (
        everything.take(np.flatnonzero(~tests)),
        everything.take(np.flatnonzero(tests)),
        languages,
    )


_READERS = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "udhr": _udhr,
    "stl10": _stl10,
    "tinyimagenet": _tinyimagenet,
}


def training_batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    crop: int = 0,
    flip: bool = False,
    start: int = 0,
) -> Iterator[tuple[Images, Labels, NDArray[np.int64]]]:
    """Yield ``(images, labels, index)`` of one shuffled epoch, from batch ``start`` on.

    Order and augmentation depend on (seed, epoch, batch) alone, so a resumed run sees exactly the
    batches that an uninterrupted one would have. The ragged last batch is kept.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(split))
    for number in range(start, steps_per_epoch(split, batch_size)):
        index = order[number * batch_size : (number + 1) * batch_size]
        images = split.images[index]
        if crop or flip:
            images = augment(images, np.random.default_rng((seed, epoch, number)), crop, flip)
        yield images, split.labels[index], index


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Return the number of batches, the ragged last one included."""
    return -(-len(split) // batch_size)


def augment(images: Images, rng: np.random.Generator, crop: int, flip: bool) -> Images:
    """Shift each image by up to ``crop`` pixels over a black border; mirror every second one."""
    rows, height, width, _ = images.shape
    if crop:
        padded = np.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)))
        top, left = rng.integers(0, 2 * crop + 1, (2, rows))
        down = top[:, None, None] + np.arange(height)[None, :, None]
        across = left[:, None, None] + np.arange(width)[None, None, :]
        images = padded[np.arange(rows)[:, None, None], down, across]
    if flip:
        mirrored = rng.random(rows) < 0.5
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return images

"""Data sets by their names: read by the module for their kind of file, and cut into splits."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import numpy as np

from ..files import DataError
from . import Dataset, Images

READERS = {
    "digits": "digits",
    "fashion_mnist": "archives",
    "cifar10": "archives",
    "cifar100": "archives",
    "stl10": "archives",
    "tinyimagenet": "folders",
    "folder": "folders",
    "huggingface": "huggingface",
    "udhr": "udhr",
}
"""Data set → module, whose function of the data set's name is called as
``read(data_dir, image_size)`` and returns training and test split, and the classes' names."""
MOMENTS = {"cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))}
"""Mean and deviation that published recipes use; of other data sets they are measured."""


def load_data(options: argparse.Namespace) -> Dataset:
    """Read the data set that a script's options name, as `load_dataset` does."""
    names = ("download", "train_size", "validation_size", "image_size")
    given = {name: getattr(options, name) for name in names}
    return load_dataset(options.dataset, options.data_dir, **given)


def load_dataset(
    name: str,
    data_dir: Path,
    *,
    download: bool = False,
    train_size: int | None = None,
    validation_size: int = 0,
    image_size: int | None = None,
) -> Dataset:
    """Read ``name`` and cut a validation split off its training images.

    The cut is the same whatever the run's seed, and stratified only by chance: rows are permuted
    by a fixed generator, the first ``validation_size`` validate, the next ``train_size`` (default:
    all the others) train.

    Raises:
        DataError: a file is missing or damaged, or there are too few images.
    """
    module = importlib.import_module(f".{READERS[name]}", __package__)
    if download and hasattr(module, "fetch"):
        module.fetch(name, data_dir)
    pool, test, class_names = getattr(module, name)(data_dir, image_size)
    order = np.random.default_rng(0).permutation(len(pool))
    wanted = len(pool) - validation_size if train_size is None else train_size
    if wanted < 1 or validation_size < 0 or validation_size + wanted > len(pool):
        raise DataError(
            f"{name} has {len(pool)} training images; got --train-size {wanted} and "
            f"--validation-size {validation_size}"
        )
    train = pool.take(order[validation_size : validation_size + wanted])
    mean, std = MOMENTS.get(name) or _moments(train.images)
    return Dataset(name, class_names, train, pool.take(order[:validation_size]), test, mean, std)


def _moments(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation a channel, from the counts of the 256 levels: little memory."""
    counts = np.zeros((images.shape[-1], 256))
    for rows in np.array_split(images, len(images) // 1024 + 1):
        for channel, count in enumerate(counts):
            count += np.bincount(rows[..., channel].ravel(), minlength=256)
    counts /= counts.sum(1, keepdims=True)
    levels = np.arange(256) / 255
    mean = counts @ levels
    std = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(1))
    return tuple(mean.round(4).tolist()), tuple(std.round(4).tolist())

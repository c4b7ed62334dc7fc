"""Data sets: three splits of images, and batches that depend on nothing but the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


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
    class_names: Sequence[str]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def held_out(self) -> dict[str, Split]:
        """Return the validation split, where there is one, and the test split by their names."""
        parts = {"validation": self.validation, "test": self.test}
        return {name: split for name, split in parts.items() if len(split)}

    def __str__(self) -> str:
        return (
            f"{self.name}: {len(self.train):,} training, {len(self.validation):,} validation, "
            f"{len(self.test):,} test images, {self.classes} classes"
        )


def training_batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    crop: int = 0,
    flip: bool = False,
    start: int = 0,
    share: Callable[[int], Any] = lambda count: slice(None),
) -> Iterator[tuple[Images, Labels, NDArray[np.int64]]]:
    """Yield ``(images, labels, index)`` of one shuffled epoch, from batch ``start`` on.

    Order and augmentation depend on (seed, epoch, batch) alone, so a resumed run sees exactly the
    batches that an uninterrupted one would have. The ragged last batch is kept. Of several
    processes each reads its own rows: ``share(rows of the batch)`` is their place in it.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(split))
    for number in range(start, steps_per_epoch(split, batch_size)):
        batch = order[number * batch_size : (number + 1) * batch_size]
        own = np.arange(len(batch))[share(len(batch))]
        images, index = split.images[batch[own]], batch[own]
        if crop or flip:
            chance = np.random.default_rng((seed, epoch, number)).random((len(batch), 3))
            images = augment(images, chance[own], crop, flip)
        yield images, split.labels[index], index


def steps_per_epoch(split: Split, batch_size: int, least: int = 1) -> int:
    """Return the number of batches, a ragged last one of at least so many rows included."""
    return (len(split) - least) // batch_size + 1


def augment(images: Images, chance: np.ndarray, crop: int, flip: bool) -> Images:
    """Shift each image by up to ``crop`` pixels over a black border; mirror every second one.

    ``chance`` are three numbers in [0, 1) an image.
    """
    rows, height, width, _ = images.shape
    if crop:
        padded = np.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)))
        top, left = (chance[:, :2] * (2 * crop + 1)).astype(int).T
        down = top[:, None, None] + np.arange(height)[None, :, None]
        across = left[:, None, None] + np.arange(width)[None, None, :]
        images = padded[np.arange(rows)[:, None, None], down, across]
    if flip:
        mirrored = chance[:, 2] < 0.5
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return images


def evaluation_batches(split: Split, batch_size: int) -> Iterator[tuple[Images, int]]:
    """Yield ``(images, rows)`` in order: full batches, the last one filled up with black images.

    One shape, of whatever split, is one compiled program. ``rows`` says how many images of the
    batch are the split's.
    """
    for start in range(0, len(split), batch_size):
        images = split.images[start : start + batch_size]
        yield np.pad(images, ((0, batch_size - len(images)), *[(0, 0)] * 3)), len(images)


def accuracies(
    logits_of: Callable[[Split], np.ndarray], data: Dataset, balanced: bool = False
) -> dict[str, float]:
    """Return `scores` of the validation split, if there is one, and the test split."""
    row: dict[str, float] = {}
    for part, split in data.held_out().items():
        row |= scores(part, logits_of(split), split.labels, balanced)
    return row


def scores(part: str, logits: np.ndarray, labels: Labels, balanced: bool) -> dict[str, float]:
    """Return the share of right answers; with ``balanced`` its mean over the classes as well."""
    right = logits.argmax(1) == labels
    row = {f"{part}_accuracy": float(right.mean())}
    if balanced:
        of_classes = [right[labels == label].mean() for label in np.unique(labels)]
        row[f"{part}_balanced_accuracy"] = float(np.mean(of_classes))
    return row

"""Pictures and their classes for every script, by Hugging Face `datasets`: NumPy arrays come out.

    --dataset digits                              scikit-learn's, 8×8: no download
    --dataset cifar100                            a name on the hub (uoft-cs/cifar100)
    --dataset cifar100 --data-dir DIR             the same from Parquet files on the disk
    --dataset folder --data-dir DIR               DIR/train/CLASS/*.jpg, DIR/val (or test)/CLASS
    --dataset webdataset --data-dir DIR --train-size N --classes N    tar shards, streamed

Rows stay in their files and are decoded when they are asked for: memory does not grow with them.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100",
       "imagenet": "ILSVRC/imagenet-1k"}  # fmt: skip
LABELS = ("fine_label", "label", "labels", "cls")  # columns of classes; the first that is there
LOOKED_AT = 1000  # training pictures give size, channels, mean and deviation


class InputError(ValueError):
    """What the user can mend; its text is the one line that the user reads."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `load`."""
    add = parser.add_argument_group("data").add_argument
    add("--dataset", default="digits", help="digits, folder, webdataset, or a name on the hub")
    add("--data-dir", type=Path, help="folder of pictures, Parquet files or tar shards")
    add("--stream", action="store_true", help="in the files' order, shuffled in a buffer of 1,000")
    add("--image-size", type=int, help="default: the pictures' own, where all agree")
    add("--train-size", type=int, help="use so many training pictures")
    add("--validation-size", type=int, default=0, help="set apart, where the data have none")
    add("--label-column", help=f"default: the first of {', '.join(LABELS)}")
    add("--classes", type=int, help="how many, where the files do not say")


@dataclass(frozen=True, repr=False)
class Pictures:
    """Rows by number: ``pictures[i]`` is ((height, width, channels) uint8, class number)."""

    cells: Sequence[Any]
    """Arrays, or what `datasets` holds of a picture that is not decoded."""
    labels: np.ndarray
    """(rows,) int64."""
    rows: np.ndarray
    """(rows,) which of the cells these are."""
    shape: tuple[int, int, int] = (0, 0, 3)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        return decode(self.cells[int(self.rows[row])], self.shape), int(self.labels[row])

    def take(self, rows: np.ndarray) -> Pictures:
        """Return the rows of these numbers."""
        return replace(self, labels=self.labels[rows], rows=self.rows[rows])


@dataclass(frozen=True, repr=False)
class Stream:
    """Rows in the order of their files; shuffled, another way each epoch. Workers share files."""

    rows: Any
    """Of `datasets`, whose ``set_epoch`` chooses the order."""
    columns: tuple[str, str]
    count: int
    """What --train-size says, or the files say of themselves; 0: unknown."""
    shape: tuple[int, int, int] = (0, 0, 3)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        picture, label = self.columns
        for row in self.rows:
            yield decode(row[picture], self.shape), int(row[label])


@dataclass(frozen=True)
class Data:
    """Three splits; ``validation`` (perhaps None) is for choices, ``test`` is only reported."""

    classes: Sequence[str]
    shape: tuple[int, int, int]
    """Height, width, channels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """A value a channel, of training pixels from 0 to 1."""
    train: Pictures | Stream
    validation: Pictures | Stream | None
    test: Pictures | Stream


def decode(cell: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Return a picture as ``shape`` (height, width, channels) uint8, scaled, cut at its long side.

    Transparent pixels become white. Raises InputError where it cannot be decoded.
    """
    if isinstance(cell, np.ndarray) and cell.shape == shape:
        return cell
    from PIL import Image, ImageOps

    size, mode = (shape[1], shape[0]), "L" if shape[2] == 1 else "RGB"
    try:
        picture = _open(cell)
        picture.draft(mode, size)
        if picture.mode in ("RGBA", "LA", "P", "PA"):
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = ImageOps.fit(picture.convert(mode), size, Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        name = cell.get("path") if isinstance(cell, dict) else "an array"
        raise InputError(f"a picture cannot be read: {name}: {error}") from error
    return np.asarray(picture).reshape(shape)


def _open(cell: Any) -> Any:
    from PIL import Image

    if isinstance(cell, np.ndarray):
        return Image.fromarray(cell[..., 0] if cell.shape[-1] == 1 else cell)
    return Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"])


def load(options: argparse.Namespace) -> Data:
    """Return the data that the options name; InputError says what is missing or differs."""
    names, splits = (_digits if options.dataset == "digits" else _hugging_face)(options)
    train, test = splits["train"], splits.pop("test" if "test" in splits else "validation")
    validation = splits.get("validation")
    held = options.validation_size if validation is None else 0
    if isinstance(train, Pictures):
        if held >= len(train):
            raise InputError(f"--validation-size {held} is all {len(train)} training pictures")
        order = np.random.default_rng(0).permutation(len(train))
        validation = train.take(np.sort(order[:held])) if held else validation
        train = train.take(np.sort(order[held:][: options.train_size]))
    elif held:
        raise InputError("--validation-size takes no pictures from a stream: leave out one of both")
    count = options.classes or int(getattr(train, "labels", np.zeros(0)).max(initial=-1)) + 1
    if not (names := names or [*map(str, range(count))]):
        raise InputError("how many classes are there? pass --classes N")
    shape, mean, std = _look(train, options.image_size)
    parts = (x if x is None else replace(x, shape=shape) for x in (train, validation, test))
    return Data(names, shape, mean, std, *parts)


def _look(train: Any, side: int | None) -> tuple[tuple[int, int, int], Any, Any]:
    """Return shape, mean and deviation by some training pictures; their sizes may not differ."""
    if isinstance(train, Stream):
        cells = [row[train.columns[0]] for row in train.rows.take(LOOKED_AT // 4)]
    else:
        rows = np.unique(np.linspace(0, len(train) - 1, min(len(train), LOOKED_AT)).astype(int))
        cells = [train.cells[int(train.rows[row])] for row in rows]
    found = {(picture.size, picture.mode in ("L", "1", "I;16")) for picture in map(_open, cells)}
    sizes = sorted({size for size, _ in found})
    if side is None and len(sizes) > 1:
        few = f"{len(sizes)} sizes, from {sizes[0]} to {sizes[-1]}"
        raise InputError(f"the pictures have {few} pixels: choose one side by --image-size")
    width, height = (side, side) if side else sizes[0]
    shape = (height, width, 1 if all(grey for _, grey in found) else 3)
    pixels = (decode(cell, shape) / 255 for cell in cells)
    mean, square = np.mean([(x.mean((0, 1)), (x**2).mean((0, 1))) for x in pixels], 0)
    std = np.sqrt(np.maximum(square - mean**2, 1e-4))
    return shape, tuple(mean.tolist()), tuple(std.tolist())


def _digits(options: argparse.Namespace) -> tuple[Sequence[str], dict[str, Any]]:
    """Return the names and the splits of scikit-learn's digits, a quarter of them for the test."""
    from sklearn.datasets import load_digits

    if options.data_dir:
        raise InputError("--dataset digits reads no --data-dir: choose another --dataset")
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) * (255 / 16)).round().astype(np.uint8)
    order = np.random.default_rng(1).permutation(len(labels))
    digits = Pictures(images, labels.astype(np.int64), np.arange(len(labels)))
    return [*"0123456789"], {"train": digits.take(order[449:]), "test": digits.take(order[:449])}


def _hugging_face(options: argparse.Namespace) -> tuple[Sequence[str] | None, dict[str, Any]]:
    """Return names and splits of what `datasets` reads: pictures, Parquet, tar, or a hub name."""
    import datasets

    datasets.disable_progress_bars()
    name, folder = options.dataset, options.data_dir
    local = folder is not None or name in ("folder", "parquet", "webdataset")
    if local and not (folder and folder.is_dir()):
        raise InputError(f"--dataset {name} reads the folder --data-dir; {folder} is not one")
    streamed = options.stream or name == "webdataset"
    try:
        source = str(folder) if local else HUB.get(name, name)
        found = datasets.load_dataset(source, streaming=streamed)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"--dataset {name}: {source} cannot be read: {first}") from error
    features = next(iter(found.values())).features or {}
    label = options.label_column or next((x for x in LABELS if x in features), None)
    picture = next((x for x, kind in features.items() if isinstance(kind, datasets.Image)), None)
    if label not in features or picture is None:
        needs = "needs a column of pictures and one of classes (--label-column)"
        raise InputError(f"{source} {needs}; it has {', '.join(features)}")
    splits = {}
    for part, rows in found.items():
        rows = rows.cast_column(picture, datasets.Image(decode=False))
        if part != "train" and any(int(row[label]) < 0 for row in rows.take(1)):
            continue  # the hub's test of ImageNet has no labels
        if not streamed:
            labels = np.asarray(rows[label][:], np.int64)
            splits[str(part)] = Pictures(rows[picture], labels, np.arange(len(labels)))
            continue
        count = getattr((rows.info.splits or {}).get(part), "num_examples", 0)
        if part == "train":
            if not (count := options.train_size or count):
                raise InputError(f"how long is an epoch of {source}? pass --train-size N")
            rows = rows.shuffle(seed=options.seed, buffer_size=1000).take(count)
        splits[str(part)] = Stream(rows, (picture, label), count)
    if "train" not in splits or not {"validation", "test"} & splits.keys():
        has, needs = ", ".join(splits) or "none", "the splits train and test (or validation)"
        raise InputError(f"{source} needs {needs}, with labels; of these it has {has}")
    return getattr(features[label], "names", None), splits

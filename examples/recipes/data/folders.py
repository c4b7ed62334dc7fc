"""Pictures in folders: one folder a class, or Tiny-ImageNet-200 as it is published.

    DIR/train/CLASS/…/*.jpg      class folders; pictures may lie deeper, in CLASS/images
    DIR/val/CLASS/…/*.jpg        also called validation or test; the test split here
    DIR/CLASS/…/*.jpg            without train and val: every fifth picture is for the test

    tiny-imagenet-200/wnids.txt                         the classes, one a line
    tiny-imagenet-200/train/n01443537/images/*.JPEG     500 a class
    tiny-imagenet-200/val/images/*.JPEG                 50 a class, for the test here
    tiny-imagenet-200/val/val_annotations.txt           file, class and box, separated by tabs

The labels of Tiny-ImageNet's own test images are not public.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import say
from ..files import DataError
from . import Images, Labels, Split

TINY_SIDE, FOLDER_SIDE = 64, 64
TINY = "tiny-imagenet-200"
TINY_HOW = (
    "unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip and pass the folder that holds "
    f"{TINY} as --data-dir"
)
SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp")
TEST_FOLDERS = ("val", "validation", "test")
MAX_PIXELS = 40_000_000  # a larger picture is left out: decoded, one takes gigabytes

Read = tuple[Split, Split, list[str]]


@dataclass(frozen=True)
class Listing:
    """Picture files, their labels, and the folder that they are of."""

    root: Path
    paths: list[Path]
    labels: Labels


# ---- the data sets ----


def folder(root: Path, size: int | None) -> Read:
    """Read class folders; each picture is scaled and cut to ``size`` × ``size`` (64)."""
    if (root / "val" / "val_annotations.txt").is_file() or (root / TINY).is_dir():
        return tinyimagenet(root, size)
    train, test, classes = list_classes(root)
    parts = [read_pictures(part, classes, size or FOLDER_SIDE) for part in (train, test)]
    return parts[0], parts[1], classes


def tinyimagenet(root: Path, size: int | None) -> Read:
    """Read Tiny-ImageNet in the order of wnids.txt.

    Images that do not decode are left out, counted and reported.

    Raises:
        DataError: no such folder, a class without a folder or an image, an annotation that names
            an unknown class, an image of another size.
    """
    train, val, classes = list_tinyimagenet(root)
    parts = [read_pictures(part, classes, size) for part in (train, val)]  # None: as published
    return parts[0], parts[1], classes


# ---- which files, of which classes ----


def list_classes(root: Path) -> tuple[Listing, Listing, list[str]]:
    """List the pictures for training and test, and the classes in the order of their names.

    Folders whose name starts with a dot are ignored. Files whose names are not a picture's are
    counted and the first is named.

    Raises:
        DataError: no class folder, a class without pictures, or one that training does not have.
    """
    how = "expected DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg, or DIR/CLASS/*.jpg"
    train = root / "train"
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if not train.is_dir():
        classes = _class_folders(root)
        everything = _list(root, classes, how)
        held_out = np.zeros(len(everything.paths), bool)
        for label in range(len(classes)):
            held_out[np.flatnonzero(everything.labels == label)[4::5]] = True
        say(f"{root} has no folder train: every fifth picture of a class is for the test")
        return _part(everything, ~held_out), _part(everything, held_out), classes
    if test is None:
        raise DataError(f"--data-dir {root} has train and none of {', '.join(TEST_FOLDERS)}; {how}")
    classes = _class_folders(train)
    unknown = sorted(set(_class_folders(test)) - set(classes))
    if unknown:
        raise DataError(f"{test} has the class {unknown[0]}, which {train} does not have; {how}")
    return _list(train, classes, how), _list(test, classes, how), classes


def list_tinyimagenet(root: Path) -> tuple[Listing, Listing, list[str]]:
    """List the training and validation images of Tiny-ImageNet, and its classes.

    Raises:
        DataError: as `tinyimagenet` says.
    """
    root = root / TINY if (root / TINY).is_dir() else root
    classes = _lines(root / "wnids.txt")
    folders = [root / "train" / name / "images" for name in classes]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(classes)} classes in {root / 'wnids.txt'} have no folder, "
            f"such as {missing[0]}; {TINY_HOW}"
        )
    listed = [sorted(folder.glob("*.JPEG")) for folder in folders]
    labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in listed])
    train = Listing(root / "train", [path for paths in listed for path in paths], labels)
    number = {name: label for label, name in enumerate(classes)}
    paths, marks = [], []
    for line in _lines(root / "val" / "val_annotations.txt"):
        file, name, *_ = [*line.split("\t"), ""]
        if name not in number:
            raise DataError(
                f"{root / 'val' / 'val_annotations.txt'}: {line!r} names no class of "
                f"{root / 'wnids.txt'}; {TINY_HOW}"
            )
        paths.append(root / "val" / "images" / file)
        marks.append(number[name])
    return train, Listing(root / "val", paths, np.asarray(marks, np.int64)), classes


def _class_folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError(f"--data-dir: {root} does not exist")
    return sorted(
        path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _list(root: Path, classes: Sequence[str], how: str) -> Listing:
    paths: list[Path] = []
    labels: list[int] = []
    others: list[Path] = []
    for label, name in enumerate(classes):
        for path in sorted((root / name).rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
            if hidden or not path.is_file():
                continue
            if path.suffix.lower() not in SUFFIXES:
                others.append(path)
                continue
            paths.append(path)
            labels.append(label)
    empty = sorted(set(range(len(classes))) - set(labels))
    if empty or not classes:
        missing = root / classes[empty[0]] if classes else root
        raise DataError(f"{missing} holds no picture ({', '.join(SUFFIXES)}); {how}")
    if others:
        say(f"skipped {len(others)} files of {root} that are no pictures, such as {others[0]}")
    return Listing(root, paths, np.asarray(labels, np.int64))


def _part(listing: Listing, keep: NDArray[np.bool_]) -> Listing:
    paths = [path for path, kept in zip(listing.paths, keep, strict=True) if kept]
    return Listing(listing.root, paths, listing.labels[keep])


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); {TINY_HOW}") from error
    if not lines:
        raise DataError(f"{path} is empty; {TINY_HOW}")
    return lines


# ---- pixels ----


def read_pictures(listing: Listing, classes: Sequence[str], size: int | None) -> Split:
    """Return the pictures that decode, with their labels; every class needs one.

    Args:
        listing: the files.
        classes: their names.
        size: the side to scale to; None: the pictures are 64×64, and another size is an error.
    """
    side = size or TINY_SIDE
    images: Images = np.zeros((len(listing.paths), side, side, 3), np.uint8)
    whole = np.zeros(len(listing.paths), bool)

    def read(row: int) -> None:
        pixels = _pixels(listing.paths[row], size)
        if pixels is not None:
            images[row], whole[row] = pixels, True

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(read, range(len(listing.paths))))
    labels = listing.labels
    if not whole.all():
        first = listing.paths[int(np.flatnonzero(~whole)[0])]
        say(
            f"skipped {(~whole).sum()} images of {listing.root} that do not decode, such as {first}"
        )
        images, labels = images[whole], labels[whole]
    empty = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if len(empty):
        raise DataError(
            f"{listing.root} holds no readable image of {len(empty)} classes, such as "
            f"{classes[empty[0]]}"
        )
    return Split(images, labels)


def _pixels(path: Path, size: int | None) -> NDArray[np.uint8] | None:
    """Return (side, side, 3); None where the file is missing, damaged or enormous."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    return None
                if size is None and image.size != (TINY_SIDE, TINY_SIDE):
                    raise DataError(
                        f"{path} is {image.width}×{image.height}, expected {TINY_SIDE}×{TINY_SIDE}"
                    )
                opaque = _on_white(image)
        if size is not None:
            opaque = ImageOps.fit(opaque, (size, size), Image.Resampling.BICUBIC)
        return np.asarray(opaque)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _on_white(image: Any) -> Any:
    """Return the picture in RGB, what is transparent in it over white."""
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")

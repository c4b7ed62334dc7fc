"""Reader of Tiny-ImageNet-200, unpacked: 200 classes of 64×64 JPEGs in the official folders.

    tiny-imagenet-200/wnids.txt                         the classes, one a line
    tiny-imagenet-200/train/n01443537/images/*.JPEG     500 a class
    tiny-imagenet-200/val/images/*.JPEG                 50 a class, for the test here
    tiny-imagenet-200/val/val_annotations.txt           file, class and box, separated by tabs

The labels of the official test images are not public.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .logs import say
from .readers import DataError, Images, Labels

SIDE = 64
FOLDER = "tiny-imagenet-200"
HOW = (
    "unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip and pass the folder that holds "
    f"{FOLDER} as --data-dir"
)


def read_tinyimagenet(root: Path) -> tuple[tuple[Images, Labels], tuple[Images, Labels], int]:
    """Return the training part, the validation part (images, labels), and the classes.

    Images that do not decode are left out, counted and reported.

    Raises:
        DataError: no such folder, a class without a folder or an image, an annotation that names
            an unknown class, an image of another size.
    """
    root = root / FOLDER if (root / FOLDER).is_dir() else root
    classes = _lines(root / "wnids.txt")
    folders = [root / "train" / name / "images" for name in classes]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(classes)} classes in {root / 'wnids.txt'} have no folder, "
            f"such as {missing[0]}; {HOW}"
        )
    listed = [sorted(folder.glob("*.JPEG")) for folder in folders]
    labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in listed])
    train = _decode([path for paths in listed for path in paths], labels, classes, root / "train")
    number = {name: label for label, name in enumerate(classes)}
    paths, marks = [], []
    for line in _lines(root / "val" / "val_annotations.txt"):
        file, name, *_ = [*line.split("\t"), ""]
        if name not in number:
            raise DataError(
                f"{root / 'val' / 'val_annotations.txt'}: {line!r} names no class of "
                f"{root / 'wnids.txt'}; {HOW}"
            )
        paths.append(root / "val" / "images" / file)
        marks.append(number[name])
    val = _decode(paths, np.asarray(marks, np.int64), classes, root / "val")
    return train, val, len(classes)


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); {HOW}") from error
    if not lines:
        raise DataError(f"{path} is empty; {HOW}")
    return lines


def _decode(
    paths: Sequence[Path], labels: NDArray[np.int64], classes: Sequence[str], part: Path
) -> tuple[Images, Labels]:
    """Return the images that decode, with their labels; every class needs one."""
    images = np.zeros((len(paths), SIDE, SIDE, 3), np.uint8)
    whole = np.zeros(len(paths), bool)

    def read(row: int) -> None:
        pixels = _pixels(paths[row])
        if pixels is not None:
            images[row], whole[row] = pixels, True

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(read, range(len(paths))))
    if not whole.all():
        first = paths[int(np.flatnonzero(~whole)[0])]
        say(f"skipped {(~whole).sum()} images of {part} that do not decode, such as {first}")
        images, labels = images[whole], labels[whole]
    empty = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if len(empty):
        raise DataError(
            f"{part} holds no readable image of {len(empty)} classes, such as "
            f"{classes[empty[0]]}; {HOW}"
        )
    return images, labels


def _pixels(path: Path) -> NDArray[np.uint8] | None:
    """Return (64, 64, 3); None where the file is missing or damaged."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))  # some are grey
    except (OSError, SyntaxError, ValueError):
        return None
    if pixels.shape != (SIDE, SIDE, 3):
        raise DataError(f"{path} is {pixels.shape[1]}×{pixels.shape[0]}, expected {SIDE}×{SIDE}")
    return pixels

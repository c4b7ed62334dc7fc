"""Image data sets of Hugging Face on the disk: a folder of `save_to_disk`, or parquet files.

    --dataset huggingface --data-dir DIR

reads splits ``train`` and ``test`` (or ``validation``), with a column of pictures and a column of
class numbers. Nothing is fetched; the package is `datasets`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..files import DataError
from . import Split

SIDE = 64


def huggingface(folder: Path, size: int | None) -> tuple[Split, Split, list[str]]:
    """Read the splits; pictures are scaled and cut to ``size`` × ``size`` (64).

    Raises:
        DataError: the package is missing, the folder is not a data set, or it has no pictures or
            no class numbers.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError("--dataset huggingface needs: pip install datasets") from error
    files = {
        part: [str(path) for path in sorted(folder.rglob(f"{part}*.parquet"))]
        for part in ("train", "validation", "test")
    }
    files = {part: paths for part, paths in files.items() if paths}
    try:
        if files:
            read = datasets.load_dataset("parquet", data_files=files)
        else:
            read = datasets.load_from_disk(str(folder))
    except Exception as error:  # the package raises many types
        raise DataError(f"--data-dir {folder} is not a data set of `datasets`: {error}") from error
    test = next((name for name in ("test", "validation") if name in read), None)
    if "train" not in read or test is None:
        raise DataError(f"--data-dir {folder} needs the splits train and test; got {list(read)}")
    features = read["train"].features
    picture = _column(folder, features, datasets.Image)
    label = _column(folder, features, datasets.ClassLabel)
    parts = [_split(read[name], picture, label, size or SIDE) for name in ("train", test)]
    return parts[0], parts[1], list(features[label].names)


def _column(folder: Path, features: Any, kind: type) -> str:
    names = [name for name, feature in features.items() if isinstance(feature, kind)]
    if not names:
        raise DataError(f"--data-dir {folder} has no column of {kind.__name__}; got {features}")
    return str(names[0])


def _split(rows: Any, picture: str, label: str, size: int) -> Split:
    from PIL import Image, ImageOps

    images = np.zeros((len(rows), size, size, 3), np.uint8)
    for number, row in enumerate(rows):
        fitted = ImageOps.fit(row[picture].convert("RGB"), (size, size), Image.Resampling.BICUBIC)
        images[number] = np.asarray(fitted)
    return Split(images, np.asarray(rows[label], np.int64))

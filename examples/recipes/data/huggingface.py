"""Image data sets of Hugging Face on the disk: parquet files, or a folder of ``save_to_disk``.

    --dataset huggingface --data-dir DIR

reads the splits ``train`` and ``test`` (or ``validation``), with a column of pictures and a column
of class numbers. Both kinds of files are Arrow tables whose schema says which columns those are,
so that the package `pyarrow` is enough. Nothing is fetched.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..files import DataError
from . import Split

SIDE = 64


def huggingface(folder: Path, size: int | None) -> tuple[Split, Split, list[str]]:
    """Read the splits; pictures are scaled and cut to ``size`` × ``size`` (64).

    Raises:
        DataError: the package is missing, the folder has no such splits, or no pictures or no
            class numbers in them.
    """
    found = {}
    for part in ("train", "test", "validation"):
        files = sorted([*folder.rglob(f"{part}*.parquet"), *folder.glob(f"{part}/data-*.arrow")])
        if files:
            found[part] = files
    test = next((part for part in ("test", "validation") if part in found), None)
    if "train" not in found or test is None:
        raise DataError(
            f"--data-dir {folder} needs train*.parquet and test*.parquet, or the folders train and "
            f"test of save_to_disk; found {', '.join(found) or 'neither'}"
        )
    parts = [_read(found[part], size or SIDE) for part in ("train", test)]
    return parts[0][0], parts[1][0], parts[0][1]


def _read(files: list[Path], size: int) -> tuple[Split, list[str]]:
    """Return the rows of a split's files, and the names of the classes."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise DataError("--dataset huggingface needs: pip install pyarrow") from error
    try:
        table = pyarrow.concat_tables(
            parquet.read_table(path)
            if path.suffix == ".parquet"
            else ipc.open_stream(path).read_all()
            for path in files
        )
        notes = json.loads((table.schema.metadata or {})[b"huggingface"])
        features = notes["info"]["features"]
        picture = next(name for name, kind in features.items() if kind["_type"] == "Image")
        label = next(name for name, kind in features.items() if kind["_type"] == "ClassLabel")
    except (pyarrow.ArrowException, KeyError, OSError, StopIteration, ValueError) as error:
        raise DataError(
            f"{files[0]} has no column of pictures and of class numbers as `datasets` writes them "
            f"({type(error).__name__}: {error})"
        ) from error
    images = np.zeros((len(table), size, size, 3), np.uint8)
    for row, cell in enumerate(table[picture].to_pylist()):
        images[row] = _pixels(cell, files[0], row, size)
    labels = np.asarray(table[label].to_pylist(), np.int64)
    return Split(images, labels), list(features[label]["names"])


def _pixels(cell: Any, file: Path, row: int, size: int) -> Any:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, TypeError, ValueError) as error:
        raise DataError(f"{file}: the picture of row {row} cannot be read ({error})") from error
    return np.asarray(fitted)

"""Checkpoints, read again: NumPy's archives and PyTorch's files.

Both are zip archives with a CRC of each part. It is verified, so that a damaged weight is an error
and never a model.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .files import DataError

Arrays = dict[str, np.ndarray]


def load_arrays(path: Path, like: Mapping[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
    """Read the arrays and notes; with ``like``, arrays of those names, shapes and dtypes only.

    Raises:
        DataError: no file, a damaged one, or one with other arrays.
    """
    try:
        with open(path, "rb") as file:  # NumPy leaves a damaged file open
            arrays = dict(np.load(file, allow_pickle=False))  # no code runs; each CRC is verified
        notes = json.loads(str(arrays.pop("notes")))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error
    for name, wanted in (like or {}).items():
        found = arrays.get(name)
        what = "missing" if found is None else f"{found.dtype}{found.shape}"
        needed = f"{wanted.dtype}{tuple(wanted.shape)}"
        if what != needed:
            raise DataError(f"{path} does not fit: {name} needs to be {needed} and is {what}")
    return arrays, notes


def load_torch(path: Path) -> dict[str, Any]:
    """Read a PyTorch checkpoint onto the CPU. No code in it can run: ``weights_only=True``.

    ``torch.load`` does not look at the CRCs of the archive, so they are verified first.

    Raises:
        DataError: no file, a damaged one, or one that is not a dictionary of tensors and values.
    """
    import torch

    try:
        if zipfile.is_zipfile(path):  # files of torch < 1.6 are not, and have no CRC
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"the CRC of {damaged} does not match")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise unreadable(path, error) from error
    return state


def unreadable(path: Path, error: Exception) -> DataError:
    """Return what to raise of a checkpoint that cannot be read."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = "it is cut short, or holds more than tensors and plain values"
    first = reason if "weights_only" in str(error) else lines[0]
    return DataError(f"{path} is not a readable checkpoint ({first}); delete it or pass another")

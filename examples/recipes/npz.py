"""Checkpoints as one NumPy archive of named arrays: atomic to write, safe to read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .files import DataError, write_atomically

Arrays = dict[str, np.ndarray]


def save(path: Path, arrays: Mapping[str, Any], notes: dict[str, Any]) -> None:
    """Write arrays, and notes that JSON can hold."""
    text = np.array(json.dumps(notes))
    write_atomically(path, lambda file: np.savez(file, allow_pickle=False, notes=text, **arrays))


def load(path: Path, like: Mapping[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
    """Read the arrays and notes; with ``like``, arrays of those names, shapes and dtypes only.

    Raises:
        DataError: no file, a damaged one, or one with other arrays.
    """
    try:
        with open(path, "rb") as file:  # NumPy leaves a damaged file open
            arrays = dict(np.load(file, allow_pickle=False))  # no code in the file can run
        notes = json.loads(str(arrays.pop("notes")))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is no readable checkpoint ({error}); delete it or pass another file"
        ) from error
    for name, wanted in (like or {}).items():
        found = arrays.get(name)
        if found is None or found.shape != wanted.shape or found.dtype != wanted.dtype:
            what = "missing" if found is None else f"{found.dtype}{found.shape}"
            raise DataError(
                f"{path} does not fit: {name} needs to be {wanted.dtype}{tuple(wanted.shape)} and "
                f"is {what}"
            )
    return arrays, notes

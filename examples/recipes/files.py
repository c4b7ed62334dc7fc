"""Files that are either the old version or the whole new one, and what checkpoints share.

Checkpoints are NumPy archives (`save_arrays`) or, for PyTorch, its own files
(`models.torch.save_torch`). Both are zip archives with a CRC of each part; it is verified when
they are read, so that a damaged weight is an error and never a model.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

Arrays = dict[str, np.ndarray]


class DataError(RuntimeError):
    """The input of a run is bad (a file, an option); the message says which and what to do."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write through ``write(file)`` to a temporary file beside ``path``, then rename.

    A crash, a full disk or ``kill -9`` at any moment leaves the previous version readable, because
    a rename within one folder is atomic and happens after the data are on disk. The temporary
    name is unique, so that two writers never share a file.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, temporary = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
        with open(number, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp's are the owner's alone
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {path}: {error.strerror or error}; the previous version, if any, is "
            "untouched. Free some space or choose another --out folder",
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return what `write_json` wrote; None where there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); delete it and pass the options") from error


# ---- checkpoints ----


def save_arrays(path: Path, arrays: Mapping[str, Any], notes: dict[str, Any]) -> None:
    """Write a NumPy archive of named arrays, and notes that JSON can hold."""
    text = np.array(json.dumps(notes))
    write_atomically(path, lambda file: np.savez(file, allow_pickle=False, notes=text, **arrays))


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


def unreadable(path: Path, error: Exception) -> DataError:
    """Return what to raise of a checkpoint that cannot be read."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = "it is cut short, or holds more than tensors and plain values"
    first = reason if "weights_only" in str(error) else lines[0]
    return DataError(f"{path} is not a readable checkpoint ({first}); delete it or pass another")

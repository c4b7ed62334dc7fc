"""Files that are either the old version or the whole new one, and checkpoints that are checked.

Checkpoints are NumPy archives (`save_arrays`) or, for PyTorch, its own files (`save_torch`). Both
are zip archives with a CRC of each part; it is verified when they are read, so that a damaged
weight is an error and never a model.
"""

from __future__ import annotations

import io
import json
import os
import shutil
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


def check_space(folder: Path, needed: int) -> None:
    """Raise `DataError` where the disk of ``folder`` has less than ``needed`` bytes free."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise DataError(f"--out {folder}: {existing} cannot be written")
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DataError(
            f"--out {folder}: the disk has {free / 1e6:,.0f} MB free, the checkpoints need "
            f"{needed / 1e6:,.0f} MB; free some space or choose another folder"
        )


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
        raise _unreadable(path, error) from error
    for name, wanted in (like or {}).items():
        found = arrays.get(name)
        if found is None or found.shape != wanted.shape or found.dtype != wanted.dtype:
            what = "missing" if found is None else f"{found.dtype}{found.shape}"
            raise DataError(
                f"{path} does not fit: {name} needs to be {wanted.dtype}{tuple(wanted.shape)} and "
                f"is {what}"
            )
    return arrays, notes


def save_torch(path: Path, state: dict[str, Any]) -> None:
    """Write a PyTorch checkpoint; the previous one stays whole until the new one is."""
    import torch

    buffer = io.BytesIO()  # where a disk is full, torch.save would raise a RuntimeError of its own
    torch.save(state, buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


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
        raise _unreadable(path, error) from error
    return state


def _unreadable(path: Path, error: Exception) -> DataError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = "it is cut short, or holds more than tensors and plain values"
    first = reason if "weights_only" in str(error) else lines[0]
    return DataError(f"{path} is not a readable checkpoint ({first}); delete it or pass another")

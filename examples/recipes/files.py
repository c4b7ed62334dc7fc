"""Files that are either the old version or the whole new one.

Checkpoints are NumPy archives (`save_arrays`) or, for PyTorch, its own files
(`recipes.torch.save_torch`); `checkpoints` reads both.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np


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

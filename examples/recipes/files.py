"""A run's folder: its options, and files that are either the old version or the whole new one.

The resolved options are saved as ``config.json``, which is itself a ``--config`` file: it repeats
the run. Checkpoints are NumPy archives (`save_arrays`) or, for PyTorch, its own files
(`models.torch.save_torch`). Both are zip archives with a CRC of each part; it is verified when
they are read, so that a damaged weight is an error and never a model.
"""

from __future__ import annotations

import argparse
import importlib.util
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


# ---- options ----

_HOW_TO_RUN = ("config", "resume", "overwrite", "dry_run", "list_models", "download")
_MAY_CHANGE = ("out", "data_dir", "teacher_cache", "tensorboard", "track", "log_seconds",
               "eval_batch_size", "compile", "device", "onnx")  # fmt: skip


def resolved(options: argparse.Namespace) -> dict[str, Any]:
    """Return what repeats the run, as JSON holds it: all options but those of how to run it."""
    values = {key: value for key, value in vars(options).items() if key not in _HOW_TO_RUN}
    return dict(json.loads(json.dumps(values, default=str)))


def begin(options: argparse.Namespace, writes: bool = True) -> None:
    """Check the run's folder, and save the resolved options there.

    Args:
        options: ``out``, ``resume`` and ``overwrite`` among them.
        writes: False: only check, as a dry run and processes after the first do.

    Raises:
        DataError: the folder has a run and neither ``--resume`` nor ``--overwrite`` is given, or
            the run to resume has other options.
    """
    path, began = options.out / "config.json", any(options.out.rglob("checkpoint.*"))
    if began and not (options.resume or options.overwrite):
        raise DataError(
            f"{options.out} has a run already; --resume goes on with it, --overwrite begins anew, "
            "another --out keeps both"
        )
    now = resolved(options)
    saved = now | ((read_json(path) if options.resume else None) or {})
    differ = ", ".join(
        f"{key} was {saved[key]!r} and is {value!r}"
        for key, value in now.items()
        if key not in _MAY_CHANGE and saved[key] != value
    )
    if differ:
        raise DataError(
            f"--resume: {options.out} is of a run with other options: {differ}. Resume with "
            f"--config {path}, or choose another --out"
        )
    for package in filter(None, (options.track, options.tensorboard and "tensorboard")):
        if importlib.util.find_spec(package) is None:
            raise DataError(f"--track and --tensorboard need: pip install {package}")
    if writes:
        if options.overwrite:
            for name in ("checkpoint.*", "best.*", "last.*", "student.onnx"):
                for old in options.out.glob(name):
                    old.unlink()
        write_json(path, now)


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

"""A run's folder before its training: what may be in it, and what a resumed run may change.

The resolved options are saved there as ``config.json``, which is itself a ``--config`` file: it
repeats the run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

from . import is_first
from .files import DataError, read_json, write_json

_HOW_TO_RUN = ("config", "resume", "overwrite", "dry_run", "list_models", "download")
_MAY_CHANGE = ("out", "data_dir", "teacher_cache", "tensorboard", "track", "log_seconds",
               "eval_batch_size", "compile", "device", "onnx")  # fmt: skip


def resolved(options: argparse.Namespace) -> dict[str, Any]:
    """Return what repeats the run, as JSON holds it: all options but those of how to run it."""
    values = {key: value for key, value in vars(options).items() if key not in _HOW_TO_RUN}
    return dict(json.loads(json.dumps(values, default=str)))


def begin(options: argparse.Namespace, needed: int = 0) -> None:
    """Check the run's folder and the disk, and save the resolved options there.

    A dry run only checks, and so do processes after the first.

    Args:
        options: ``out``, ``resume`` and ``overwrite`` among them.
        needed: bytes of the checkpoints.

    Raises:
        DataError: the folder has a run and neither ``--resume`` nor ``--overwrite`` is given, the
            run to resume has other options, the disk is full, or a package is missing.
    """
    check_space(options.out, needed)
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
    if options.dry_run or not is_first():
        return
    if options.overwrite:
        for name in ("checkpoint.*", "best.*", "last.*", "student.onnx"):
            for old in options.out.glob(name):
                old.unlink()
    write_json(path, now)


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

"""The teacher's answers to the training images in a file: ``--teacher-cache``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core import TeacherCache
from mcld_core.cache import fingerprint

from .. import is_first
from ..data import Dataset
from ..files import DataError
from ..run import Processes
from .adapter import Adapter, find_adapter


def cached_logits(
    options: argparse.Namespace,
    data: Dataset,
    adapter: Adapter | None,
    weights: Sequence[Any],
    compute: Callable[[], np.ndarray],
    processes: Processes,
) -> np.ndarray:
    """Return what ``compute`` returns, from ``--teacher-cache`` if it has it, and leave it there.

    Args:
        options: of the run.
        data: whose training images, or paths of files, and labels the teacher answers.
        adapter: between teacher and student; None: nothing is.
        weights: the teacher's arrays: another teacher gets a file of its own.
        compute: (rows, classes), in the order of the split.
        processes: that wait for each other; the first one writes the file.

    Raises:
        DataError: the file is damaged.
    """
    split, between = data.train, adapter or find_adapter(options, data)
    images: Any = getattr(split, "images", None)
    if images is None:  # files are known by their names, sizes and times
        stats = [(path, os.stat(path)) for path in getattr(split, "paths", ())]
        images = " ".join(f"{path} {found.st_size} {found.st_mtime_ns}" for path, found in stats)
    teacher = (" ".join(options.teacher), between.scale, between.shift, repr(between), *weights)
    mark = fingerprint(data.name, images, split.labels, *teacher)
    path = Path(options.teacher_cache) / f"{data.name}-{mark[:16]}.npy"
    if is_first() and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = np.arange(len(split))
        TeacherCache.write(path, [(rows, compute())], len(rows), data.classes, fingerprint=mark)
    processes.any(False)
    try:
        cache = TeacherCache.open(path, fingerprint=mark)
    except ValueError as error:
        raise DataError(str(error)) from error
    return np.asarray(cache[:], "float32")

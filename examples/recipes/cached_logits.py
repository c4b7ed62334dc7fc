"""The teacher's logits of a training set, kept in a folder from run to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcld_core import TeacherCache
from mcld_core.cache import fingerprint

from .data import Split
from .files import DataError


def cached_logits(
    folder: Path | None,
    name: str,
    split: Split,
    classes: int,
    weights: list[NDArray[Any]],
    compute: Callable[[], NDArray[Any]],
) -> NDArray[np.float32]:
    """Return what ``compute`` returns, from the folder if it has it, and leave it there.

    Args:
        folder: of ``--teacher-cache``; None: compute.
        name: of the data set.
        split: the images and labels that the teacher answers.
        classes: the width of an answer.
        weights: the teacher's arrays: another teacher gets a file of its own.
        compute: (rows, classes), in the order of the split.

    Raises:
        DataError: the file is damaged.
    """
    if folder is None:
        return np.asarray(compute(), "float32")
    mark = fingerprint(name, split.images, split.labels, *weights)
    path = Path(folder) / f"{name}-{mark[:16]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = np.arange(len(split))
        TeacherCache.write(path, [(rows, compute())], len(rows), classes, fingerprint=mark)
    try:
        cache = TeacherCache.open(path, fingerprint=mark)
    except ValueError as error:
        raise DataError(str(error)) from error
    return np.asarray(cache[:], "float32")

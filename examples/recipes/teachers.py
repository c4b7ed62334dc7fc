"""Teachers from anywhere: what ``--teacher`` and its companions mean, for every framework.

| ``--teacher`` | the model | in |
|---|---|---|
| a name of ``--list-models`` | one of `recipes.models` | every framework |
| ``module:function`` | what your function returns | every framework |
| ``FILE.onnx`` | run by onnxruntime on the CPU | every framework |
| ``timm:NAME`` | ``timm.create_model``, pretrained where its weights are on this machine | torch |
| ``hf:FOLDER`` | an image classifier of `transformers` from a folder | torch |
| ``keras.applications:NAME`` | without weights, unless ``--teacher-weights`` has them | keras |

A teacher takes the student's images, normalised its own way, and answers in the student's classes:
`Adapter` holds what lies between. `own_teachers` loads those of others. A script imports this
module unless it has trained its one teacher itself (`options.trains_teacher`).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core import TeacherCache, select_classes
from mcld_core.cache import fingerprint
from mcld_core.extensions.teachers import ensemble

from . import is_first
from .data import Dataset
from .files import DataError
from .options import is_own, teacher_options
from .run import Processes


def named_files(options: argparse.Namespace) -> list[tuple[str, Path | None]]:
    """Return each ``--teacher`` with its ``--teacher-weights``, None where there are none.

    Raises:
        DataError: no teacher, or another number of files.
    """
    files = options.teacher_weights or [None] * len(options.teacher)
    if not options.teacher or len(files) != len(options.teacher):
        raise DataError(
            f"--teacher-weights: expected a file for each of {options.teacher}; got {len(files)}"
        )
    return list(zip(options.teacher, files, strict=True))


def untrained(options: argparse.Namespace) -> list[int]:
    """Return the numbers of the teachers that have to be trained first."""
    return [
        number
        for number, (name, file) in enumerate(named_files(options))
        if file is None and not is_own(name)
    ]


def load_teachers(
    options: argparse.Namespace,
    load: Callable[[str, Path | None], Any],
    train: Callable[[argparse.Namespace], Any],
) -> list[Any]:
    """Return each ``--teacher``: a model, or an `own_teachers.OnnxTeacher`.

    Networks of the recipe that have no weights are trained first.

    Args:
        options: of the run; a dry run trains none.
        load: from a teacher's name and its file of weights to the model.
        train: of the script, on the same data.

    Raises:
        DataError: a teacher cannot be loaded.
    """
    from .own_teachers import OnnxTeacher

    models = [
        OnnxTeacher(Path(name)) if name.endswith(".onnx") else load(name, file)
        for name, file in named_files(options)
    ]
    for number in untrained(options) if not options.dry_run else []:  # the others are checked
        models[number] = train(teacher_options(options, number)).model
    return models


def unfit(options: argparse.Namespace, data: Dataset, error: Exception) -> DataError:
    """Return what to raise of a teacher that fails on the images."""
    if isinstance(error, DataError):
        return error
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return DataError(
        f"--teacher {' + '.join(options.teacher)}: it cannot answer images of {data.image_shape}, "
        f"scaled to --teacher-size {options.teacher_size}: {reason}"
    )


# ---- between student and teacher ----


@dataclass(frozen=True)
class Adapter:
    """What a teacher's input and output need: pure functions for arrays of every framework."""

    scale: np.ndarray
    shift: np.ndarray
    """Per channel: ``images · scale + shift`` are the student's images as the teacher wants them;
    both are float32 (channels,)."""
    columns: list[int] | None
    """The teacher's class for each class of the student; None: the same classes."""
    classes: int
    """The student's."""
    size: int | None
    """The side that the teacher's images are scaled to; None: the student's."""

    def combine(self, answers: Sequence[Any]) -> Any:
        """Return the logits of the student's classes from the logits of one or more teachers.

        Raises:
            DataError: a teacher of another number of classes, and no ``--teacher-classes``.
        """
        chosen = [self._select(answer) for answer in answers]
        return chosen[0] if len(chosen) == 1 else ensemble(chosen)

    def _select(self, logits: Any) -> Any:
        width = int(logits.shape[-1])
        if self.columns is not None and (width != self.classes or max(self.columns) < width):
            try:
                return select_classes(logits, self.columns)
            except ValueError as error:
                raise DataError(f"--teacher-classes: {error}") from error
        if width != self.classes:
            raise DataError(
                f"the teacher has {width} classes and the data {self.classes}; say by "
                "--teacher-classes FILE which of the teacher's is which"
            )
        return logits


def find_adapter(options: argparse.Namespace, data: Dataset) -> Adapter:
    """Read ``--teacher-mean``, ``--teacher-std`` and ``--teacher-classes``.

    Raises:
        DataError: another number of channels, a deviation ≤ 0, a file that does not fit.
    """
    mean, std = (np.asarray(values, np.float32) for values in (data.mean, data.std))
    own = []
    for name, default in (("teacher_mean", mean), ("teacher_std", std)):
        values = getattr(options, name)
        array = default if values is None else np.asarray(values, np.float32)
        if len(array) == 1:
            array = np.repeat(array, len(mean))
        if array.shape != mean.shape or (name == "teacher_std" and not (array > 0).all()):
            raise DataError(
                f"--{name.replace('_', '-')}: expected {len(mean)} numbers, one a channel"
                f"{', above 0' if name == 'teacher_std' else ''}; got {values}"
            )
        own.append(array)
    columns = None
    if options.teacher_classes is not None:
        columns = read_classes(options.teacher_classes, data.classes)
    scale, shift = std / own[1], (mean - own[0]) / own[1]
    return Adapter(scale, shift, columns, data.classes, options.teacher_size)


def read_classes(path: Path, classes: int) -> list[int]:
    """Read the teacher's class number for each class of the student, one a line.

    Raises:
        DataError: no such file, another number of lines, or a line that is not a number.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        columns = [int(line.split()[0]) for line in lines]
    except (OSError, ValueError) as error:
        raise DataError(f"--teacher-classes {path}: expected a number a line ({error})") from error
    if len(columns) != classes:
        raise DataError(
            f"--teacher-classes {path} has {len(columns)} lines; the data have {classes} classes"
        )
    return columns


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

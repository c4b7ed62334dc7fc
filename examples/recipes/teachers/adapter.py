"""What lies between teacher and student: the teacher's normalisation, image size and classes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core import select_classes
from mcld_core.extensions.teachers import ensemble

from ..data import Dataset
from ..files import DataError


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

    def ask(
        self, teachers: Sequence[Callable[[Any], Any]], images: Any, resize: Callable[..., Any]
    ) -> Any:
        """Return the logits of the student's classes for normalised images, channels last.

        Args:
            teachers: from images as they want them to logits of their classes.
            images: as the student has them.
            resize: ``resize(images, (height, width))``.
        """
        images = images * self.scale + self.shift
        if self.size is not None:
            images = resize(images, (self.size, self.size))
        return self.combine([teacher(images) for teacher in teachers])

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

"""Keras models that were saved, and teachers that are not trained here.

A script imports this module where ``--teacher`` asks for it.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from .. import teachers
from ..files import DataError
from ..run import Processes
from .keras import NOTES, Shape, build, in_float32


def load_model(path: Path) -> tuple[keras.Model, dict[str, Any]]:
    """Return a model and its notes; none of a model that Keras alone has saved.

    Raises:
        DataError: there is none, or it is damaged.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; it is the last.keras of an earlier run")
    try:
        notes: dict[str, Any] = {}
        if zipfile.is_zipfile(path):  # the older HDF5 is not
            with zipfile.ZipFile(path) as zipped:
                damaged = zipped.testzip()
                if damaged is not None:
                    raise ValueError(f"the CRC of {damaged} does not match")
                if NOTES in zipped.namelist():
                    notes = json.loads(zipped.read(NOTES))
        return keras.models.load_model(path, compile=False), notes
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} is not a readable Keras model: {reason}") from error


def load_teacher(name: str, path: Path | None, shape: Shape, classes: int) -> keras.Model:
    """Return a teacher: a ``.keras`` file as it is, or the network ``name`` with its weights.

    Raises:
        DataError: no such file, a damaged one, or one of another network.
    """
    if path is not None and not path.exists():
        raise DataError(f"{path} does not exist")
    if path is not None and path.suffix == ".keras":
        model, _ = load_model(path)
        if tuple(model.input_shape[1:]) != tuple(shape):
            raise DataError(f"{path} takes images {model.input_shape[1:]}; the data are {shape}")
        return model
    model = build(name, shape, classes)
    if path is not None:
        try:
            model.load_weights(path)
        except (ValueError, OSError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"{path} does not fit {name}: {reason}") from error
    return model


def load_teachers(
    options: argparse.Namespace,
    data: Any,
    train: Callable[[argparse.Namespace], Any],
    scope: Callable[[], AbstractContextManager[Any]],
) -> tuple[teachers.Adapter, list[Any]]:
    """Return what lies between teachers and student, and the teachers: models or ONNX files.

    Args:
        options: ``teacher``, ``teacher_weights`` and those between teacher and student.
        data: image shape and classes.
        train: of the script, on the same data.
        scope: of the strategy that the models belong to.

    Raises:
        DataError: a teacher cannot be loaded.
    """
    adapter, (height, width, channels) = teachers.find_adapter(options, data), data.image_shape
    size = options.teacher_size
    shape = (height, width, channels) if size is None else (size, size, channels)

    def load(name: str, file: Path | None) -> Any:
        with scope():
            return load_teacher(name, file, shape, data.classes)

    return adapter, teachers.load_teachers(options, load, train)


def cached_answers(
    options: argparse.Namespace,
    data: Any,
    adapter: Any,
    models: Sequence[Any],
    compute: Callable[[], np.ndarray],
    processes: Processes,
) -> np.ndarray:
    """Return the teachers' answers to the training images, as `teachers.cached_logits` does."""
    mark: list[Any] = []
    for model in models:
        mark += model.get_weights() if isinstance(model, keras.Model) else [bytes(model.content)]
    return teachers.cached_logits(options, data, adapter, mark, compute, processes)


def load_student(path: Path) -> tuple[keras.Model, Shape, dict[str, Any]]:
    """Return a model of the Keras or TensorFlow example in float32, with its shape and notes.

    For ``python -m mcld_core export --load examples.recipes.models.keras_files:load_student``.

    Raises:
        DataError: no such file, a damaged one, or one of something else.
    """
    model, notes = load_model(path)
    if not isinstance(model.input_shape, tuple) or len(model.input_shape) != 4:
        raise DataError(f"{path} takes {model.input_shape}, which are not images")
    return in_float32(model), tuple(model.input_shape[1:]), notes

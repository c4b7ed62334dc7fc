"""Teachers of Keras and TensorFlow: trained first, from files or `keras.applications`; several."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..files import DataError
from ..models import Shape
from ..models.keras import build
from ..models.keras_files import in_float32, load_model
from ..run import Processes
from . import teacher_options, trains_teacher
from .adapter import Adapter, find_adapter
from .cache import cached_logits
from .load import load_teachers


def find_teachers(
    options: argparse.Namespace,
    data: Any,
    train: Callable[[argparse.Namespace], Any],
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Adapter | None, list[Any], keras.Model | None]:
    """Train the teacher, or load those that ``--teacher`` names.

    Args:
        options: ``teacher``, ``teacher_weights`` and those between teacher and student.
        data: image shape and classes.
        train: of the script, on the same data.
        scope: of the strategy that the models belong to.

    Returns:
        What lies between them and the student, None where nothing does; Keras models or ONNX
        files; the teacher in float32 if it is one Keras model.

    Raises:
        DataError: a teacher cannot be loaded.
    """
    adapter, (height, width, channels) = None, data.image_shape
    if trains_teacher(options):
        models = [train(teacher_options(options)).model]
    else:
        adapter, size = find_adapter(options, data), options.teacher_size

        def load(name: str, file: Path | None) -> Any:
            with scope():
                shape = (size or height, size or width, channels)
                return load_teacher(name, file, shape, data.classes)

        models = load_teachers(options, load, train)
    alone = len(models) == 1 and isinstance(models[0], keras.Model)
    return adapter, models, in_float32(models[0]) if alone else None


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


def cached_answers(
    options: argparse.Namespace,
    data: Any,
    adapter: Any,
    models: Sequence[Any],
    compute: Callable[[], np.ndarray],
    processes: Processes,
) -> np.ndarray:
    """Return the teachers' answers to the training images, as `cached_logits` does."""
    mark: list[Any] = []
    for model in models:
        mark += model.get_weights() if isinstance(model, keras.Model) else [bytes(model.content)]
    return cached_logits(options, data, adapter, mark, compute, processes)


def answer(adapter: Adapter | None, functions: Sequence[Any], images: np.ndarray) -> np.ndarray:
    """Return the teachers' logits of normalised images; ``functions`` are what answers for each."""

    def ask(function: Any, own: np.ndarray) -> np.ndarray:
        return np.asarray(function(own), "float32")

    def resize(own: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
        return np.asarray(keras.ops.image.resize(own, sides, "bicubic"))

    if adapter is None:
        return ask(functions[0], images)
    found: np.ndarray = adapter.ask([partial(ask, x) for x in functions], images, resize)
    return found


def answer_in_graph(adapter: Adapter | None, models: Sequence[Any], images: Any) -> Any:
    """Return the logits of models or ONNX files, within a `tf.function`."""
    import tensorflow as tf

    def ask(model: Any, own: Any) -> Any:
        if isinstance(model, keras.Model):
            return tf.cast(model(own, training=False), tf.float32)
        width = model(np.zeros((1, *own.shape[1:]), np.float32)).shape[1]
        return tf.ensure_shape(tf.numpy_function(model, [own], tf.float32), [None, width])

    if adapter is None:
        return ask(models[0], images)
    resize = partial(tf.image.resize, method="bicubic")
    return adapter.ask([partial(ask, model) for model in models], images, resize)

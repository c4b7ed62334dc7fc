"""Keras models in files and on several processes, for Keras on any backend and for TensorFlow."""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..files import DataError, write_atomically
from ..options import teacher_options
from ..teachers import Adapter, find_adapter, named_files, untrained
from .keras import Shape, build

NOTES = "notes.json"


def save_model(path: Path, model: keras.Model, notes: Mapping[str, Any]) -> None:
    """Save a model alone, as ``keras.models.load_model`` reads it, with notes inside."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        with zipfile.ZipFile(file, "a") as zipped:
            zipped.writestr(NOTES, json.dumps(notes))
        write_atomically(path, lambda out: out.write(file.read_bytes()))


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
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Adapter, list[Any], keras.Model | None, list[Any]]:
    """Load the teachers; one of the recipe's networks without weights is trained first.

    Returns:
        What lies between them and the student; Keras models or ONNX files; the teacher in float32
        if it is one Keras model; what a cache of answers knows them by.

    Args:
        options: ``teacher``, ``teacher_weights`` and those between teacher and student.
        data: image shape and classes.
        train: of the script, on the same data.
        scope: of the strategy that the models belong to.

    Raises:
        DataError: a teacher cannot be loaded.
    """
    adapter, (height, width, channels) = find_adapter(options, data), data.image_shape
    size = options.teacher_size
    shape = (height, width, channels) if size is None else (size, size, channels)
    named = named_files(options)
    models: list[Any] = []
    for name, file in named:
        if name.endswith(".onnx"):
            from ..own_teachers import OnnxTeacher

            models.append(OnnxTeacher(Path(name)))
            continue
        with scope():
            models.append(load_teacher(name, file, shape, data.classes))
    for number in untrained(options):  # what others bring is checked by now
        models[number] = train(teacher_options(options, number)).model
    mark: list[Any] = [" ".join(options.teacher), repr(adapter)]
    for (name, _), model in zip(named, models, strict=True):
        mark += [Path(name).read_bytes()] if name.endswith(".onnx") else model.get_weights()
    alone = len(models) == 1 and isinstance(models[0], keras.Model)
    return adapter, models, in_float32(models[0]) if alone else None, mark


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


def in_float32(model: keras.Model) -> keras.Model:
    """Return the same model, computing in float32 as its weights are, on this process alone."""
    distribution = keras.distribution.distribution()
    if distribution is None and all(x.compute_dtype == "float32" for x in model.layers):
        return model

    def layer(old: Any) -> Any:
        return type(old).from_config(old.get_config() | {"dtype": "float32"})

    keras.distribution.set_distribution(None)
    try:
        copy = keras.models.clone_model(model, clone_function=layer)
        copy.set_weights(model.get_weights())
    finally:
        keras.distribution.set_distribution(distribution)
    return copy


# ---- several processes ----


class Processes:
    """The devices of all processes, by `keras.distribution` on JAX; one elsewhere.

    Each process reads its rows of every batch. What is not trained runs on each by itself.
    """

    def __init__(self) -> None:
        self.devices = self.count = 1
        self.number = 0
        if keras.backend.backend() != "jax":
            return
        if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ and not jax_is_distributed():
            keras.distribution.initialize()
        import jax

        self.devices, self.count = jax.device_count(), jax.process_count()
        self.number = jax.process_index()
        if self.devices > 1 and keras.distribution.distribution() is None:
            split = keras.distribution.DataParallel(auto_shard_dataset=False)
            keras.distribution.set_distribution(split)

    def share(self, count: int) -> slice:
        """Return which of ``count`` rows this process reads: as many for every device."""
        own = count // self.devices * self.devices // self.count
        return slice(self.number * own, (self.number + 1) * own)

    def any(self, flag: bool) -> bool:
        """Return whether any process says so; every process asks, and waits."""
        if self.count == 1:
            return flag
        from jax.experimental.multihost_utils import process_allgather

        return bool(process_allgather(np.asarray(flag)).any())


def leave(status: int) -> None:
    """End a process of several, with its exit status; of one, do nothing.

    When the others have come here too, it ends at once: Python's last collection of what Keras
    and JAX hold may wait forever, after all is written and said.
    """
    if keras.backend.backend() != "jax" or not jax_is_distributed():
        return
    import jax

    jax.distributed.shutdown()  # waits for the others
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def jax_is_distributed() -> bool:
    """Whether an earlier training of this process has met the others."""
    import jax

    return bool(jax.distributed.is_initialized())


@functools.cache
def _compiled(model: keras.Model) -> Any:
    import jax

    return jax.jit(lambda *state: model.stateless_call(*state, training=False)[0])


def answers_of(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return images → logits: of a Keras model as its weights are now, of a function itself."""
    if not isinstance(model, keras.Model):
        return model
    if keras.distribution.distribution() is None:
        return model.predict_on_batch
    state = [
        [np.asarray(variable.value) for variable in group]
        for group in (model.trainable_variables, model.non_trainable_variables)
    ]
    return lambda images: np.asarray(_compiled(model)(*state, images))

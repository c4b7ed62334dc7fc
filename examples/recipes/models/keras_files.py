"""Keras models in files, with what there is to say of them, and in float32."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from ..files import DataError, write_atomically
from . import Shape

NOTES = "notes.json"
"""Where a saved model has them."""


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

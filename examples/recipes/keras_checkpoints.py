"""Files of a Keras training: each is the old version or the whole new one."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras

from .files import DataError, write_atomically

_NOTES, _STATE = "notes.json", "state.weights.h5"


def save_model(path: Path, model: keras.Model, notes: dict[str, Any]) -> None:
    """Save a model alone, as ``keras.models.load_model`` reads it, with notes beside it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        with zipfile.ZipFile(file, "a") as zipped:
            zipped.writestr(_NOTES, json.dumps(notes))
        write_atomically(path, lambda out: out.write(file.read_bytes()) and None)


def load_model(path: Path) -> keras.Model:
    """Load a model.

    Raises:
        DataError: there is none, or it is damaged.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; it is the last.keras of an earlier run")
    try:
        return keras.models.load_model(path, compile=False)
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no readable Keras model: {error}") from error


def read_model_notes(path: Path) -> dict[str, Any]:
    """Return the notes of `save_model`; none of a model that Keras alone has saved."""
    if not zipfile.is_zipfile(path):  # the older HDF5
        return {}
    with zipfile.ZipFile(path) as zipped:
        known = _NOTES in zipped.namelist()
    return read_notes(path) if known else {}


def save_state(path: Path, learner: keras.Model, notes: dict[str, Any]) -> None:
    """Save the weights, step, bank and optimiser of a compiled learner, with notes, in one file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / _STATE
        learner.save_weights(file)
        archive = Path(folder) / "checkpoint.zip"
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr(_NOTES, json.dumps(notes))
            zipped.write(file, _STATE)
        write_atomically(path, lambda out: out.write(archive.read_bytes()) and None)


def read_notes(path: Path) -> dict[str, Any]:
    """Return the notes of a checkpoint.

    Raises:
        DataError: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as zipped:
            notes: dict[str, Any] = json.loads(zipped.read(_NOTES))
        return notes
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DataError(f"{path} is no readable checkpoint: {error}") from error


def load_state(path: Path, learner: keras.Model) -> None:
    """Take the state back into a compiled learner of the same kind."""
    learner.optimizer.build(learner.trainable_variables)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as zipped:
                zipped.extract(_STATE, folder)
            learner.load_weights(Path(folder) / _STATE)
        except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
            raise DataError(f"{path} is no readable checkpoint: {error}") from error

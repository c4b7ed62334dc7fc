r"""ONNX of the Keras recipe: models from their checkpoints, and the end of a run.

    python -m mcld_core export --checkpoint runs/digits/seed0/mcld/last.keras --out student.onnx \
        --load examples.recipes.keras_onnx:load_student

``--load`` adds how the images were normalised, and makes a float32 model of one of mixed precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import keras

from .data import Dataset
from .files import DataError
from .handover import Loaded, hand_over, metadata, shown
from .keras_checkpoints import load_model, read_model_notes

EXPORTERS = {"torch": "onnxscript", "tensorflow": "tf2onnx", "jax": "jax2onnx"}
"""The package that each backend's models need."""


def load_student(path: Path) -> Loaded:
    """Load a ``last.keras`` or ``best.keras``, in float32, on whichever backend.

    Returns:
        The Keras model, (height, width, channels), and the metadata for `export_onnx`.

    Raises:
        DataError: no such file, a damaged one, or one of something else.
    """
    model, notes = load_model(path), read_model_notes(path)
    if not isinstance(model.input_shape, tuple) or len(model.input_shape) != 4:
        raise DataError(f"{path} takes {model.input_shape}, no images")
    return in_float32(model), tuple(model.input_shape[1:]), metadata(notes)


def in_float32(model: keras.Model) -> keras.Model:
    """Return the same model, computing in float32 as its weights are."""

    def layer(old: Any) -> Any:
        return type(old).from_config(old.get_config() | {"dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=layer)
    copy.set_weights(model.get_weights())
    return copy


def export_student(options: argparse.Namespace, data: Dataset) -> None:
    """Write the run's ``student.onnx``; print its size and latency beside the teacher's."""
    exporter = EXPORTERS[keras.backend.backend()]
    hand_over(options, shown(data), load_student, file="last.keras", exporter=exporter)

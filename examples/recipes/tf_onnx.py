r"""ONNX of the TensorFlow recipe: models from their checkpoints, and the end of a run.

python -m mcld_core export --checkpoint runs/digits/seed0/mcld/last.npz --out student.onnx \
        --load examples.recipes.tf_onnx:load_student
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras

from . import npz
from .data import Split
from .files import DataError
from .handover import SHOWN, Loaded, blueprint, hand_over, metadata
from .tf_input import evaluation_input
from .tf_models import build
from .tf_pictures import PictureSet


def load_student(path: Path) -> Loaded:
    """Build the model of a ``last.npz`` or ``best.npz``, in float32, and load its arrays.

    Returns:
        The Keras model, (height, width, channels), and the metadata for `export_onnx`.

    Raises:
        DataError: no such file, a damaged one, or one of something else.
    """
    _, notes = npz.load(path)
    name, shape, classes = blueprint(path, notes)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # the weights are, whatever they were trained in
    try:
        student = build(name, shape, classes)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    finally:
        keras.config.set_dtype_policy(policy)
    like = {f"weight{number}": array for number, array in enumerate(student.get_weights())}
    arrays, _ = npz.load(path, like)
    student.set_weights([arrays[name] for name in like])
    return student, shape, metadata(notes)


def centre_share(data: PictureSet) -> float | None:
    """Return which part of a picture's shorter side the evaluation sees; None: images as they are.

    It scales the shorter side to 8/7 of the model's size and cuts out the middle.
    """
    return None if isinstance(data.test, Split) else 7 / 8


def export_student(options: argparse.Namespace, data: PictureSet) -> None:
    """Write the run's ``student.onnx``; print its size and latency beside the teacher's."""
    images, _ = next(iter(evaluation_input(data.test, data, SHOWN)))
    hand_over(options, images.numpy(), load_student, file="last.npz", exporter="tf2onnx")

r"""ONNX of the JAX recipe: models from their checkpoints, and the end of a run.

python -m mcld_core export --checkpoint runs/digits/seed0/mcld/last.npz --out student.onnx \
        --load examples.recipes.jax_onnx:load_student
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flax import nnx

from . import npz
from .data import Dataset
from .files import DataError
from .handover import Loaded, blueprint, hand_over, metadata, shown
from .jax_models import build
from .jax_network import take_apart
from .jax_training import named, unnamed


def load_student(path: Path) -> Loaded:
    """Build the model of a ``last.npz`` or ``best.npz``, in float32, and load its arrays.

    Returns:
        The nnx module in evaluation mode, (height, width, channels), and the metadata for
        `export_onnx`.

    Raises:
        DataError: no such file, a damaged one, or one of something else.
    """
    _, notes = npz.load(path)
    name, shape, classes = blueprint(path, notes)
    try:
        network, variables = take_apart(build(name, shape, classes))
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    arrays, _ = npz.load(path, named(variables))
    student = nnx.merge(network.evaluating, *map(nnx.State, unnamed(arrays, variables)))
    return student, shape, metadata(notes)


def export_student(options: argparse.Namespace, data: Dataset) -> None:
    """Write the run's ``student.onnx``; print its size and latency beside the teacher's."""
    hand_over(options, shown(data), load_student, file="last.npz", exporter="jax2onnx")

"""Flax models in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flax import nnx

from ..checkpoints import load_arrays
from ..files import DataError
from ..jax import named, unnamed
from . import Shape
from .jax import build


def load_weights(model: nnx.Module, path: Path) -> dict[str, Any]:
    """Give a model the arrays of a ``last.npz`` or ``best.npz``; return the notes.

    Raises:
        DataError: no such file, a damaged one, or one of another model.
    """
    state = nnx.to_pure_dict(nnx.state(model))
    arrays, notes = load_arrays(path, named(state))
    nnx.update(model, unnamed(arrays, state))
    return notes


def load_student(path: Path) -> tuple[nnx.Module, Shape, dict[str, Any]]:
    """Return a model of ``jax_cifar100.py`` from its file, in float32, with its shape and notes.

    For ``python -m mcld_core export --load examples.recipes.models.jax_files:load_student``.

    Raises:
        DataError: no such file, a damaged one, or one of something else.
    """
    notes = load_arrays(path)[1]
    try:
        name, classes = str(notes["model"]), len(notes["classes"])
        height, width, channels = map(int, notes["image_shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} does not say model, image_shape and classes; pass the last.npz or best.npz "
            "of a run, which hold the model alone"
        ) from error
    shape = height, width, channels
    model = build(name, shape, classes)
    notes = load_weights(model, path)
    model.eval()
    return model, shape, notes

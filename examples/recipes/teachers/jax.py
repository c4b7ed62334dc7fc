"""Flax' teachers: with weights of files, ONNX files, and several as one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from ..data import Dataset
from ..models.jax import build
from ..models.jax_files import load_weights
from .adapter import Adapter, find_adapter
from .load import OnnxTeacher, load_teachers


def load_fitted(options: argparse.Namespace, data: Dataset, train: Callable[..., Any]) -> Fitted:
    """Return the teachers that ``--teacher`` names; ``train`` is the script's, on the same data.

    Raises:
        DataError: a teacher cannot be loaded.
    """
    adapter = find_adapter(options, data)
    height, width, channels = data.image_shape
    shape = (adapter.size or height, adapter.size or width, channels)

    def load(name: str, path: Path | None) -> nnx.Module:
        model = build(name, shape, data.classes)
        if path is not None:
            load_weights(model, path)
        return model

    return Fitted(load_teachers(options, load, train), adapter)


class Fitted(nnx.Module):
    """Teachers as one module, from the student's normalised images to logits of its classes."""

    def __init__(self, models: Sequence[Any], adapter: Adapter) -> None:
        onnx = [model for model in models if isinstance(model, OnnxTeacher)]
        self.contents = nnx.static([bytes(model.content) for model in onnx])
        """Of the ONNX files."""
        self.adapter = nnx.static(adapter)
        self.models = nnx.List(OnnxModule(x) if isinstance(x, OnnxTeacher) else x for x in models)

    @property
    def alone(self) -> nnx.Module | None:
        """The teacher, if it is one and not an ONNX file."""
        return self.models[0] if len(self.models) == 1 and not self.contents else None

    def __call__(self, images: jax.Array) -> jax.Array:
        """Return (batch, classes) for (batch, height, width, channels)."""
        teachers = [lambda x, model=model: model(x).astype("float32") for model in self.models]
        logits: jax.Array = self.adapter.ask(teachers, images, _resize)
        return logits


def _resize(images: jax.Array, side: tuple[int, int]) -> jax.Array:
    return jax.image.resize(images, (len(images), *side, images.shape[3]), "cubic")


class OnnxModule(nnx.Module):
    """An ONNX file as a module, run on the host."""

    def __init__(self, teacher: OnnxTeacher) -> None:
        self.teacher = nnx.static(teacher)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Return its logits."""
        width = self.teacher(np.zeros((1, *images.shape[1:]), np.float32)).shape[1]
        answer = jax.ShapeDtypeStruct((len(images), width), "float32")
        logits: jax.Array = jax.pure_callback(lambda x: self.teacher(np.asarray(x)), answer, images)
        return logits

"""Keras students to ONNX, on each of Keras' backends."""

from __future__ import annotations

import importlib
from typing import Any

import keras

BACKEND = keras.backend.backend()
exporter: Any = importlib.import_module(f"mcld_core.export.{BACKEND}")
FRAMEWORK, TOOL = f"keras on {BACKEND}", exporter.TOOL
PACKAGES: tuple[str, ...] = exporter.PACKAGES
as_tensor = keras.ops.convert_to_tensor
write = exporter.write
"""As Keras 3.15's ``model.export`` does; but with a free batch axis that hands torch to the old
TorchScript exporter, which fails on attention, to JAX it gives each input's time axis a size of its
own, so that tokens and their mask no longer fit, and of TensorFlow's captures it makes inputs."""


class Inference:
    """The model in inference, called with a list or a dict as Keras has it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, *values: Any, **named: Any) -> Any:
        single = values[0] if len(values) == 1 else list(values)
        return self.model(named or single, training=False)


def inference(student: Any) -> Any:
    """The model as it is: inference is an argument of the call."""
    return exporter.inference(Inference(student))

"""Keras students to ONNX, on each of Keras' backends."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mcld_core.export.inputs import Arrays, ExportRequest, named_outputs, outputs_of

EXPORTERS = {"torch": "onnxscript", "tensorflow": "tf2onnx", "jax": "jax2onnx"}
PACKAGES: tuple[str, ...] = (EXPORTERS.get(keras.backend.backend(), "onnxscript"),)


class Inference:
    """The model in inference, called with a list or a dict as Keras has it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.run: Callable[..., Any] = self.__call__
        if keras.backend.backend() == "jax":
            from mcld_core.backends.jax.export import Student

            self.run = Student(self).run

    def __call__(self, *values: Any, **named: Any) -> Any:
        single = values[0] if len(values) == 1 else list(values)
        return self.model(named or single, training=False)


@contextmanager
def evaluation(student: Any) -> Iterator[Inference]:
    """The model as it is: inference is an argument of the call (on torch, also a mode)."""
    if keras.backend.backend() != "torch":
        yield Inference(student)
        return
    from mcld_core.backends.torch import export as torch_export

    with torch_export.eval_mode(student):
        yield Inference(student)


def run(student: Any, request: ExportRequest, inputs: Arrays) -> Arrays:
    """The model's own outputs, with ``training=False``."""
    values = [keras.ops.convert_to_tensor(array) for array in inputs.values()]
    return outputs_of(student.run, request, values, _as_numpy)


def _as_numpy(value: Any) -> np.ndarray[Any, Any]:
    if hasattr(value, "detach"):  # Keras 3.15 warns of NumPy 2 here
        return np.asarray(value.detach().cpu().numpy())
    return np.asarray(keras.ops.convert_to_numpy(value))


def write(student: Any, request: ExportRequest, output_names: Sequence[str], path: Path) -> str:
    """Call the exporter of the backend.

    So does Keras 3.15's ``model.export``, but with a free batch axis it hands torch to the old
    TorchScript one, which fails on attention, to JAX it gives each input's time axis a size of its
    own, so that tokens and their mask no longer fit, and of TensorFlow's captures it makes inputs.
    """
    backend = keras.backend.backend()
    exporter = importlib.import_module(f"mcld_core.backends.{backend}.export")
    given = _torch_module(student) if backend == "torch" else student
    written: str = exporter.write(given, request, output_names, path)
    return written


def _torch_module(student: Inference) -> Any:
    import torch

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = student.model  # for its parameters

        def forward(self, *values: Any, **named: Any) -> Any:
            return named_outputs(student(*values, **named))

    return Module()

"""Keras students to ONNX, on each of Keras' backends."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras

from mcld_core.export.inputs import Arrays, ExportRequest, named_outputs, outputs_of

exporter: Any = importlib.import_module(f"mcld_core.export.{keras.backend.backend()}")
PACKAGES: tuple[str, ...] = exporter.PACKAGES


class Inference:
    """The model in inference, called with a list or a dict as Keras has it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.run: Callable[..., Any] = self.__call__
        if keras.backend.backend() == "jax":
            self.run = exporter.Student(self).run

    def __call__(self, *values: Any, **named: Any) -> Any:
        single = values[0] if len(values) == 1 else list(values)
        return self.model(named or single, training=False)


@contextmanager
def evaluation(student: Any) -> Iterator[Inference]:
    """The model as it is: inference is an argument of the call (on torch, also a mode)."""
    with exporter.eval_mode(student) if keras.backend.backend() == "torch" else nullcontext():
        yield Inference(student)


def run(student: Any, request: ExportRequest, inputs: Arrays) -> Arrays:
    """The model's own outputs, with ``training=False``."""
    values = [keras.ops.convert_to_tensor(array) for array in inputs.values()]
    return outputs_of(student.run, request, values)


def write(student: Any, request: ExportRequest, output_names: Sequence[str], path: Path) -> str:
    """Call the exporter of the backend.

    So does Keras 3.15's ``model.export``, but with a free batch axis it hands torch to the old
    TorchScript one, which fails on attention, to JAX it gives each input's time axis a size of its
    own, so that tokens and their mask no longer fit, and of TensorFlow's captures it makes inputs.
    """
    given = _torch_module(student) if keras.backend.backend() == "torch" else student
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

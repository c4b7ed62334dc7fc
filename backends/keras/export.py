"""Keras students to ONNX, on each of Keras' backends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mcld_core.onnx_packages import require
from mcld_core.onnx_request import Arrays, ExportRequest
from mcld_core.onnx_student import call, named_outputs

NEEDED = {"tensorflow": "tf2onnx", "jax": "jax2onnx", "torch": "onnxscript"}


class _Inference:
    """The model in inference, called with a list or a dict as Keras has it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, *values: Any, **named: Any) -> Any:
        single = values[0] if len(values) == 1 else list(values)
        return self.model(named or single, training=False)


@contextmanager
def evaluation(student: Any) -> Iterator[Any]:
    """The model as it is: inference is an argument of the call (on torch, also a mode)."""
    if keras.backend.backend() != "torch":
        yield student
        return
    from mcld_core.backends.torch import export as torch_export

    with torch_export.eval_mode(student):
        yield student


def run(student: Any, request: ExportRequest, inputs: Arrays) -> Arrays:
    """The model's own outputs, with ``training=False``."""
    values = [keras.ops.convert_to_tensor(array) for array in inputs.values()]
    outputs = call(_Inference(student), request, values)
    return {name: _as_numpy(value) for name, value in outputs.items()}


def _as_numpy(value: Any) -> np.ndarray[Any, Any]:
    if hasattr(value, "detach"):  # Keras 3.15 warns of NumPy 2 here
        return np.asarray(value.detach().cpu().numpy())
    return np.asarray(keras.ops.convert_to_numpy(value))


def write(student: Any, request: ExportRequest, output_names: Sequence[str], path: Path) -> str:
    """Call ``model.export(format="onnx")``, on torch the torch exporter.

    With a free batch axis Keras 3.15 hands torch to the old TorchScript exporter, which does
    not know the shape arithmetic of attention; torch's own exporter takes the same module.
    """
    backend = keras.backend.backend()
    require(NEEDED[backend], NEEDED[backend])
    if backend == "torch":
        return _write_torch(student, request, output_names, path)
    specs = {
        name: keras.InputSpec(shape=request.open_shape(name), dtype=str(array.dtype), name=name)
        for name, array in request.example.items()
    }
    single = len(specs) == 1 and not request.by_keyword
    inputs = next(iter(specs.values())) if single else list(specs.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        student.export(
            str(path),
            format="onnx",
            verbose=False,
            input_signature=[specs if request.by_keyword else inputs],
            opset_version=request.opset,
        )
    return f"keras and {NEEDED[backend]}"


def _write_torch(
    student: Any, request: ExportRequest, output_names: Sequence[str], path: Path
) -> str:
    import torch

    from mcld_core.backends.torch import export as torch_export

    class Inference(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = student

        def forward(self, *values: Any, **named: Any) -> Any:
            return named_outputs(_Inference(self.model)(*values, **named))

    return torch_export.write(Inference(), request, output_names, path)

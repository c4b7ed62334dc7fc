"""Keras students to ONNX, on each of Keras' backends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mcld_core.export.inputs import Arrays, ExportRequest, named_outputs, outputs_of

EXPORTERS = {"torch": "onnxscript", "tensorflow": "tf2onnx", "jax": "jax2onnx"}
PACKAGES = (EXPORTERS.get(keras.backend.backend(), "onnxscript"),)


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
    return outputs_of(_Inference(student), request, values, _as_numpy)


def _as_numpy(value: Any) -> np.ndarray[Any, Any]:
    if hasattr(value, "detach"):  # Keras 3.15 warns of NumPy 2 here
        return np.asarray(value.detach().cpu().numpy())
    return np.asarray(keras.ops.convert_to_numpy(value))


def write(student: Any, request: ExportRequest, output_names: Sequence[str], path: Path) -> str:
    """Call ``model.export(format="onnx")`` on TensorFlow, the backend's own exporter elsewhere.

    Keras 3.15 would call the same exporters, but with a free batch axis it hands torch to the old
    TorchScript one, which fails on attention, and to JAX it gives each input's time axis a size
    of its own, so that tokens and their mask no longer fit.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _write_tensorflow(student, request, path)
    if backend == "jax":
        from mcld_core.backends.jax import export as jax_export

        return jax_export.write(_Inference(student), request, output_names, path)
    return _write_torch(student, request, output_names, path)


def _write_tensorflow(student: Any, request: ExportRequest, path: Path) -> str:
    from mcld_core.backends.tensorflow.export import import_tf2onnx, without_xla

    import_tf2onnx()
    specs = {
        name: keras.InputSpec(shape=request.open_shape(name), dtype=str(array.dtype), name=name)
        for name, array in request.example.items()
    }
    if request.by_keyword:
        signature: Any = specs
    else:
        signature = list(specs.values()) if len(specs) > 1 else next(iter(specs.values()))
    with without_xla(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        student.export(
            str(path),
            format="onnx",
            verbose=False,
            input_signature=[signature],
            opset_version=request.opset,
        )
    return "keras.Model.export and tf2onnx"


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

"""TensorFlow functions, modules and SavedModels to ONNX, by tf2onnx."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf

from mcld_core.onnx_packages import require
from mcld_core.onnx_request import Arrays, ExportRequest
from mcld_core.onnx_student import call, named_outputs

SIGNATURE = "serving_default"


@contextmanager
def evaluation(student: Any) -> Iterator[Callable[..., Any]]:
    """The function to export. TensorFlow has no mode: pass a function of inference.

    A SavedModel that cannot be called stands for its serving signature.
    """
    if callable(student):
        yield student
        return
    signatures = getattr(student, "signatures", {})
    if SIGNATURE not in signatures:
        raise TypeError(
            f"export_onnx: a TensorFlow student needs to be callable or to have a signature "
            f"{SIGNATURE!r}; got one with the signatures {list(signatures)}; pass the function."
        )
    yield _positional(signatures[SIGNATURE])


def _positional(signature: Any) -> Callable[..., Any]:
    """Signatures take their inputs by name; positions follow the names' order."""
    names = list(signature.structured_input_signature[1])

    def forward(*values: Any, **named: Any) -> Any:
        if values:
            named = dict(zip(names, values, strict=True))
        outputs = named_outputs(signature(**named))
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    return forward


def run(student: Any, request: ExportRequest, inputs: Arrays) -> Arrays:
    """The student's own outputs."""
    outputs = call(student, request, [tf.constant(array) for array in inputs.values()])
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def write(student: Any, request: ExportRequest, output_names: Sequence[str], path: Path) -> str:
    """Trace with free axes and convert."""
    require("tf2onnx", "tf2onnx")
    import tf2onnx

    specs = [
        tf.TensorSpec(request.open_shape(name), array.dtype, name=name)
        for name, array in request.example.items()
    ]

    @tf.function(input_signature=specs)
    def forward(*inputs: Any) -> tuple[Any, ...]:
        outputs = call(student, request, inputs).values()
        return tuple(tf.identity(tensor) for tensor in outputs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        tf2onnx.convert.from_function(
            forward, input_signature=specs, opset=request.opset, output_path=str(path)
        )
    return "tf2onnx"

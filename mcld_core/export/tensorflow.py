"""TensorFlow functions, modules and SavedModels to ONNX, by tf2onnx."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from mcld_core.export.inputs import EXPORT, ExportRequest, call, quiet

FRAMEWORK, TOOL = "tensorflow", "tf2onnx"
PACKAGES: tuple[str, ...] = ("tf2onnx",)
as_tensor = tf.constant

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
        needs = f"a TensorFlow student needs to be callable or to have a signature {SIGNATURE!r}"
        came = f"one with the signatures {list(signatures)}"
        raise EXPORT.wrong_type(needs, came, "Pass the function")
    yield _positional(signatures[SIGNATURE])


def _positional(signature: Any) -> Callable[..., Any]:
    """Signatures take their inputs by name; positions follow the names' order."""
    names = list(signature.structured_input_signature[1])

    def forward(*values: Any, **named: Any) -> Any:
        found = signature(**(named or dict(zip(names, values, strict=True))))
        return next(iter(found.values())) if len(found) == 1 else found

    return forward


@contextmanager
def _without_xla() -> Iterator[None]:
    """Trace functions that ask for XLA as others: tf2onnx cannot look into compiled ones.

    Keras makes one of each grouped convolution.
    """
    function = tf.function

    def plain(*arguments: Any, **settings: Any) -> Any:
        return function(*arguments, **(settings | {"jit_compile": None}))

    tf.function = plain
    try:
        yield
    finally:
        tf.function = function


def write(student: Any, request: ExportRequest, output_names: Sequence[str]) -> Any:
    """Trace with free axes and convert."""
    with quiet():
        import onnx_ir
        import tf2onnx

    specs = []
    for name, array in request.example.items():
        sizes = [size if isinstance(size, int) else None for size in request.symbolic_shape(name)]
        specs.append(tf.TensorSpec(sizes, array.dtype, name=name))

    def forward(*inputs: Any) -> tuple[Any, ...]:
        outputs = call(student, request, inputs).values()
        return tuple(tf.identity(tensor) for tensor in outputs)

    with _without_xla(), quiet():
        function = tf.function(forward, input_signature=specs)
        model, _ = tf2onnx.convert.from_function(
            function, specs, opset=request.opset, custom_op_handlers={"Erfc": (_erfc, [])}
        )
    _keep_captures(model, function.get_concrete_function(*specs))
    return onnx_ir.from_proto(model)


def _keep_captures(model: Any, function: Any) -> None:
    """Make weights of the tensors that the function captures; tf2onnx makes inputs of them.

    Keras' Normalization captures its mean and variance.
    """
    from onnx import numpy_helper

    inputs = {value.name: value for value in model.graph.input}
    for tensor, placeholder in function.graph.captures:
        if placeholder.name in inputs:
            weight = numpy_helper.from_array(np.asarray(tensor), placeholder.name)
            model.graph.initializer.append(weight)
            model.graph.input.remove(inputs[placeholder.name])


def _erfc(context: Any, node: Any, *_: Any) -> None:
    """``erfc(x) = 1 − erf(x)``: TensorFlow's GELU is made of it, and tf2onnx lacks it."""
    import onnx

    output, kind = node.output[0], context.get_dtype(node.input[0])
    shape, dtype = context.get_shape(output), onnx.helper.tensor_dtype_to_np_dtype(kind)
    one = context.make_const(f"{node.name}/one", np.ones((), dtype))
    inputs = list(node.input)
    context.remove_node(node.name)
    erf = context.make_node("Erf", inputs, name=f"{node.name}/erf", dtypes=[kind], shapes=[shape])
    context.make_node(
        "Sub", [one.output[0], erf.output[0]], name=node.name, outputs=[output],
        dtypes=[kind], shapes=[shape],
    )  # fmt: skip

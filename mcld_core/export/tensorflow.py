"""TensorFlow functions, modules and SavedModels to ONNX, by tf2onnx."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import tensorflow as tf

from mcld_core.export.inputs import EXPORT, ExportRequest, call

FRAMEWORK, TOOL = "tensorflow", "tf2onnx"
PACKAGES: tuple[str, ...] = ("tf2onnx",)
as_tensor = tf.constant


def inference(student: Any) -> Callable[..., Any]:
    """The function to export. TensorFlow has no mode: pass a function of inference.

    A SavedModel that cannot be called stands for its serving signature.
    """
    if callable(student):
        return student
    signatures = getattr(student, "signatures", {})
    if "serving_default" not in signatures:
        needs = "a TensorFlow student needs to be callable or to have a signature serving_default"
        came = f"one with the signatures {list(signatures)}"
        raise EXPORT.wrong_type(needs, came, "Pass the function")
    signature = signatures["serving_default"]
    names = list(signature.structured_input_signature[1])

    def forward(*values: Any, **named: Any) -> Any:
        """Signatures take their inputs by name; positions follow the names' order."""
        found = signature(**(named or dict(zip(names, values, strict=True))))
        return next(iter(found.values())) if len(found) == 1 else found

    return forward


def write(student: Any, request: ExportRequest, output_names: Sequence[str]) -> Any:
    """Trace with free axes and convert."""
    import onnx_ir
    import tf2onnx
    from onnx import numpy_helper

    specs = []
    for name, array in request.example.items():
        sizes = [size if isinstance(size, int) else None for size in request.symbolic_shape(name)]
        specs.append(tf.TensorSpec(sizes, array.dtype, name=name))

    def forward(*inputs: Any) -> tuple[Any, ...]:
        outputs = call(student, request, inputs).values()
        return tuple(tf.identity(tensor) for tensor in outputs)

    plain = tf.function

    def without_xla(*arguments: Any, **settings: Any) -> Any:
        return plain(*arguments, **(settings | {"jit_compile": None}))

    function = plain(forward, input_signature=specs)
    with patch.object(tf, "function", without_xla):  # tf2onnx cannot look into compiled ones:
        traced = function.get_concrete_function()  # Keras makes one of each grouped convolution
    model, _ = tf2onnx.convert.from_function(
        function, specs, opset=request.opset, custom_op_handlers={"Erfc": (_erfc, [])}
    )
    # tf2onnx makes inputs of the tensors that the function captures, as Keras' Normalization does
    inputs = {value.name: value for value in model.graph.input}
    for tensor, placeholder in traced.graph.captures:
        if placeholder.name in inputs:
            weight = numpy_helper.from_array(np.asarray(tensor), placeholder.name)
            model.graph.initializer.append(weight)
            model.graph.input.remove(inputs[placeholder.name])
    return onnx_ir.from_proto(model)


def _erfc(context: Any, node: Any, *_: Any) -> None:
    """``erfc(x) = 1 − erf(x)``: TensorFlow's GELU is made of it, and tf2onnx lacks it."""
    from onnx.helper import tensor_dtype_to_np_dtype

    node.type, output = "Erf", node.output[0]
    dtype = tensor_dtype_to_np_dtype(context.get_dtype(output))
    one = context.make_const(f"{node.name}/one", np.ones((), dtype)).output[0]
    context.insert_new_node_on_output("Sub", output, inputs=[one, output])

"""JAX functions and flax nnx modules to ONNX, by jax2onnx."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcld_core.export.inputs import ExportRequest, call, named_outputs

FRAMEWORK, TOOL = "jax", "jax2onnx"
PACKAGES: tuple[str, ...] = ("jax2onnx",)
as_tensor = jnp.asarray

POOLING = {"flax.nnx": ("max_pool", "avg_pool"), "flax.linen": ("max_pool", "avg_pool"),
           "flax.linen.pooling": ("pool",)}  # fmt: skip
"""Of flax: what jax2onnx 0.17 replaces by what knows no positions of arguments and no borders."""


def inference(student: Any) -> Any:
    """A copy of an nnx module in eval mode, or a function of inference.

    Compiled, once a shape: uncompiled, XLA compiles each operation.
    """
    if "flax" in sys.modules:
        from flax import nnx

        if isinstance(student, nnx.Module):
            student = nnx.clone(student)  # of the same arrays; the student's own modes stay
            student.eval()
    return jax.jit(lambda *inputs, **named: named_outputs(student(*inputs, **named)))


def write(student: Any, request: ExportRequest, output_names: Sequence[str]) -> Any:
    """Trace with free axes and convert."""
    import jax2onnx

    homes = {sys.modules[home]: names for home, names in POOLING.items() if home in sys.modules}
    pooling = [(home, name, getattr(home, name)) for home in homes for name in homes[home]]

    def forward(*inputs: Any) -> Any:
        for home, name, function in pooling:
            setattr(home, name, partial(_either, getattr(home, name), function))
        outputs = call(student.__wrapped__, request, inputs)
        found = tuple(outputs[name] for name in sorted(outputs))  # the order of `jax.jit`
        return found[0] if len(found) == 1 else found

    specs = [
        jax.ShapeDtypeStruct(request.symbolic_shape(name), array.dtype)
        for name, array in request.example.items()
    ]
    options = {} if request.opset is None else {"opset": request.opset}
    with (
        jax.numpy_rank_promotion("allow"),  # the exporter's own code needs both, whatever
        jax.numpy_dtype_promotion("standard"),  # the process has chosen
    ):
        model = jax2onnx.to_onnx(
            forward,
            inputs=specs,
            input_names=list(request.example),
            output_names=list(output_names),
            enable_double_precision=any(spec.dtype == np.float64 for spec in specs),
            return_mode="ir",
            **options,
        )
    free_the_batch(model)
    _take_the_examples_types(model, request)
    return model


def _either(first: Any, second: Any, *arguments: Any, **named: Any) -> Any:
    try:
        return first(*arguments, **named)
    except (NotImplementedError, TypeError):
        return second(*arguments, **named)


def free_the_batch(model: Any) -> None:
    """Rewrite each pooling over images as onnxruntime can run it, in an ``onnx_ir.Model``.

    jax2onnx writes the maximum of ``lax.reduce_window``, which Keras' pooling is, over every axis
    of the array, the batch too: an image (batch, height, width, channels) becomes (1, 1, batch,
    height, width, channels), with a window of four axes. The window of the batch is 1, so the
    batch can be the batch: (batch, 1, height, width, channels).
    """
    import onnx_ir

    graph = model.graph
    for pool in [node for node in graph if node.op_type == "MaxPool"]:
        second = pool.inputs[0].producer()
        first: Any = None if second is None else second.inputs[0].producer()
        squeeze: Any = next((node for node, _ in pool.outputs[0].uses()), None)
        found = [None if node is None else node.op_type for node in (first, second, squeeze)]
        if found != ["Unsqueeze", "Unsqueeze", "Squeeze"]:
            continue  # over the three axes at most that onnxruntime takes; it says if not
        for name in {"kernel_shape", "strides", "dilations", "pads"} & set(pool.attributes):
            sizes = list(pool.attributes[name].as_ints())
            if name == "pads":  # at the starts of all axes, then at their ends
                del sizes[len(sizes) // 2]
            pool.attributes[name] = onnx_ir.AttrInt64s(name, sizes[1:])
        axis = onnx_ir.node("Constant", [], {"value_ints": [1]})
        graph.insert_before(graph[0], axis)
        pool.replace_input_with(0, first.outputs[0])
        graph.remove(second)
        for node in (first, squeeze):
            node.replace_input_with(1, axis.outputs[0])


def _take_the_examples_types(model: Any, request: ExportRequest) -> None:
    """Cast inputs whose type JAX narrows (int64 and float64, unless ``jax_enable_x64``)."""
    import onnx_ir

    for value in model.graph.inputs:
        array = request.example.get(value.name)
        if array is None or value.dtype.numpy() == array.dtype:
            continue
        narrow = onnx_ir.node("Cast", [value], {"to": value.dtype})
        value.replace_all_uses_with(narrow.outputs[0])
        narrow.replace_input_with(0, value)
        model.graph.insert_before(model.graph[0], narrow)
        value.type = onnx_ir.TensorType(onnx_ir.DataType.from_numpy(array.dtype))

"""Pooling over images as onnxruntime can run it, in models that jax2onnx has written.

jax2onnx writes the maximum of ``lax.reduce_window``, which Keras' pooling is, over every axis of
the array, the batch too: an image (batch, height, width, channels) becomes (1, 1, batch, height,
width, channels), with a window of four axes. onnxruntime pools over three at most. The window of
the batch is 1, so the batch can be the batch: (batch, 1, height, width, channels).
"""

from __future__ import annotations

from typing import Any

LIMIT = 3
"""The axes that onnxruntime pools over."""
AROUND = ["Unsqueeze", "Unsqueeze", "Squeeze"]
"""What jax2onnx puts around a pooling: two before it, one behind it."""


def free_the_batch(model: Any) -> None:
    """Rewrite each such pooling of ``model``, an ``onnx_ir.Model``, in place.

    Raises:
        ValueError: a pooling that jax2onnx has written in another way.
    """
    import onnx_ir

    graph = model.graph
    for pool in [node for node in graph if node.op_type == "MaxPool"]:
        if len(pool.attributes["kernel_shape"].as_ints()) <= LIMIT:
            continue
        second = pool.inputs[0].producer()
        first: Any = None if second is None else second.inputs[0].producer()
        squeeze: Any = next((node for node, _ in pool.outputs[0].uses()), None)
        found = [None if node is None else node.op_type for node in (first, second, squeeze)]
        if found != AROUND:
            raise ValueError(
                f"export_onnx: around a pooling over more than {LIMIT} axes the known jax2onnx "
                f"writes {', '.join(AROUND)}; got {found}. Install jax2onnx 0.17"
            )
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

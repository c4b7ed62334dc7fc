"""Pooling over images as onnxruntime can run it, in models that jax2onnx has written.

jax2onnx writes ``lax.reduce_window``, which Keras' pooling is, over every axis of the array, the
batch too: an image (batch, height, width, channels) becomes (1, 1, batch, height, width,
channels), with a window of four axes. onnxruntime pools and convolves over three at most. The
window of the batch is 1, so the batch can be the batch: (batch, 1, height, width, channels).
"""

from __future__ import annotations

from typing import Any

import numpy as np

LIMIT = 3
"""The axes that onnxruntime pools or convolves over."""


def free_the_batch(model: Any) -> None:
    """Rewrite each such pooling of ``model``, an ``onnx.ModelProto``, in place."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    for pool in [node for node in graph.node if node.op_type in ("MaxPool", "Conv")]:
        strides = next((a for a in pool.attribute if a.name == "strides"), None)
        around = [maker.get(pool.input[0]), None, *readers.get(pool.output[0], [])[:1]]
        if around[0] is not None:
            around[1] = maker.get(around[0].input[0])
        kinds = ["" if node is None else node.op_type for node in around]
        if (
            strides is None
            or len(strides.ints) <= LIMIT
            or kinds != ["Unsqueeze"] * 2 + ["Squeeze"]
        ):
            continue
        second, first, last = around
        for attribute in pool.attribute:
            if attribute.name in ("kernel_shape", "strides", "dilations", "pads"):
                ends = len(attribute.ints) // 2 if attribute.name == "pads" else 0
                del attribute.ints[ends]
                if ends:
                    del attribute.ints[0]
        if pool.op_type == "Conv":
            weights = constants[pool.input[1]]
            array = numpy_helper.to_array(weights)
            if array.ndim > LIMIT + 2:  # the same weights may serve several poolings
                weights.CopyFrom(numpy_helper.from_array(array.squeeze(2), weights.name))
        axis = f"{pool.name}_axis"
        graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), axis))
        first.input[1], last.input[1] = axis, axis
        pool.input[0] = first.output[0]
        graph.node.remove(second)

"""JAX functions and flax nnx modules to ONNX, by jax2onnx."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mcld_core.export.inputs import Arrays, ExportRequest, call, outputs_of, quiet
from mcld_core.export.onnx_pooling import free_the_batch

PACKAGES: tuple[str, ...] = ("jax2onnx",)

WINDOW = ("window_shape", "strides", "padding", "count_include_pad")
"""What flax' pooling takes after its inputs, in this order."""

BORDERS = {"max_pool": -np.inf, "avg_pool": 0.0}
"""flax' pooling, and what lies around its inputs."""


class Student:
    """A student, and its call compiled once a shape: uncompiled, XLA compiles each operation."""

    def __init__(self, student: Any) -> None:
        self.student = student
        self.compiled = jax.jit(self.__call__)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self.student(*inputs, **named)

    def run(self, *inputs: Any, **named: Any) -> Any:
        """The outputs; what cannot be traced is for the exporter to say."""
        try:
            return self.compiled(*inputs, **named)
        except Exception:
            return self(*inputs, **named)


@contextmanager
def evaluation(student: Any) -> Iterator[Student]:
    """A copy of an nnx module in eval mode; a function as it is, one of inference."""
    if "flax" in sys.modules:
        from flax import nnx

        if isinstance(student, nnx.Module):
            student = nnx.clone(student)  # of the same arrays; the student's own modes stay
            student.eval()
    yield Student(student)


def run(student: Any, request: ExportRequest, inputs: Arrays) -> Arrays:
    """The student's own outputs."""
    return outputs_of(student.run, request, [*map(jnp.asarray, inputs.values())])


@contextmanager
def _pooling_of_flax() -> Iterator[None]:
    """Give back to flax' pooling what jax2onnx 0.17 takes from it: positions, widths of borders."""
    homes = [sys.modules[name] for name in ("flax.nnx", "flax.linen") if name in sys.modules]
    replaced = [(home, name, getattr(home, name)) for home in homes for name in BORDERS]
    for home, name, function in replaced:
        setattr(home, name, partial(_pool, function, BORDERS[name]))
    try:
        yield
    finally:
        for home, name, function in replaced:
            setattr(home, name, function)


def _pool(function: Any, border: float, inputs: Any, *window: Any, **others: Any) -> Any:
    """Name the arguments of a pooling, and lay the border around its inputs beforehand."""
    settings = dict(zip(WINDOW, window, strict=False)) | others
    widths = settings.get("padding", "VALID")
    if isinstance(widths, str):
        return function(inputs, **settings)
    around = [(0, 0)] * (inputs.ndim - 1 - len(widths)) + [*map(tuple, widths), (0, 0)]
    counts_all = settings.pop("count_include_pad", True)
    pool = partial(function, **(settings | {"padding": "VALID"}))
    pooled = pool(jnp.pad(inputs, around, constant_values=border))
    if counts_all:
        return pooled
    return pooled / pool(jnp.pad(jnp.ones_like(inputs[..., :1]), around))


def write(student: Any, request: ExportRequest, output_names: Sequence[str], path: Path) -> str:
    """Trace with free axes and convert."""
    with quiet("onnx_ir"):
        import jax2onnx
        import onnx_ir

    def forward(*inputs: Any) -> Any:
        with _pooling_of_flax():
            outputs = tuple(call(student, request, inputs).values())
        return outputs[0] if len(outputs) == 1 else outputs

    specs = [
        jax.ShapeDtypeStruct(request.symbolic_shape(name), array.dtype)
        for name, array in request.example.items()
    ]
    options = {} if request.opset is None else {"opset": request.opset}
    with (
        quiet("onnx_ir"),  # of shapes without a type
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
    written = onnx_ir.to_proto(model)
    # Where it has moved a transpose past an operation, the shape noted in between is the old one.
    del written.graph.value_info[:]
    path.write_bytes(written.SerializeToString())
    return "jax2onnx"


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

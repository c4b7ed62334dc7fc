"""ONNX files of a distilled student, verified before they appear."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core import __version__
from mcld_core.export.inputs import (
    EXPORT,
    ExportRequest,
    free_axes,
    names_of,
    read_inputs,
    require,
    rows_of,
)
from mcld_core.export.onnx_file import ExportReport, as_texts, check_path, finish, verify
from mcld_core.export.student import find_exporter, references, resolve_student, write_graph
from mcld_core.files import replacement

__all__ = ["ExportReport", "export_onnx"]


def export_onnx(
    student: Any,
    path: str | os.PathLike[str],
    *,
    input_shape: Any = None,
    example_input: Any = None,
    dtype: Any = "float32",
    input_names: Sequence[str] | str | None = None,
    output_names: Sequence[str] | str | None = None,
    dynamic_batch: bool = True,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    opset: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write a student as an ONNX file that is shown to compute the same.

    The framework's own exporter makes the graph (``torch.onnx.export(dynamo=True)``, tf2onnx,
    jax2onnx). Before the file appears, onnx.checker runs with full shape inference, and
    onnxruntime is compared with the student in evaluation mode (batch norm and dropout off) on
    batches of other sizes than the exporter has seen: ``max |onnx − student| / max |student|``, by
    row of logits, stays within `tolerance`, and the arg max is the same, ties within the tolerance
    excepted. If not, an error says how far off it is and no file is written. The file comes under
    a temporary name and is then renamed.

    Args:
        student: a torch module, a Keras model, a tf.function, tf.Module or SavedModel (or its
            path, or that of a .keras file), a JAX function, a flax nnx module. A distiller
            (``.student``) or a checkpoint (``["student"]``) gives its student: the teacher is
            never in the graph. Its train or eval mode stays as it is.
        path: the .onnx file to write; it holds the weights too (up to 2 GiB). An older ONNX file
            is replaced, a file of another kind never.
        input_shape: sizes without the batch axis, such as ``(3, 32, 32)``; several inputs: a
            tuple of shapes, or a dict by name. For float inputs only.
        example_input: instead, an array (batch, ...) of real rows; several: a tuple (the student
            is called by position) or a dict (called by keyword; a Keras model gets the tuple as
            a list, the dict as it is). Its dtypes are the graph's.
        dtype: the type of `input_shape`'s inputs. Default float32.
        input_names: default: the dict's keys, else ``input`` or ``input_0``, ``input_1``.
        output_names: default: ``logits``, the keys of a dict, or ``output_0``, ``output_1``.
        dynamic_batch: whether the batch axis has a free size. Default True.
        dynamic_axes: other axes of free size, ``{"tokens": {1: "time"}}`` (axis 0 is the batch).
            The example's size is the largest that is checked.
        opset: the operator set; default: the exporter's own.
        metadata: what a reader of the file needs: ``classes`` (names), the pixels' normalisation,
            teacher, accuracy, anything that JSON holds; texts stay as they are. Library,
            framework and exporter are added.
        tolerance: the largest relative error. Default 1e-4; float32 gives about 1e-6.

    Returns:
        An `ExportReport`: path, size, error, opset, names.

    Raises:
        ValueError: wrong arguments, an invalid file, or one that computes something else.
        TypeError: the student is of no known kind.
        RuntimeError: the framework's exporter fails.
        ImportError: an exporter or onnxruntime is missing; the text says what to install.

    Example:
        ```python
        report = export_onnx(student, "student.onnx", input_shape=(3, 32, 32))
        ```
    """
    EXPORT.number("tolerance", tolerance, above=0, maximum=1)
    for name, given in (("metadata", metadata), ("dynamic_axes", dynamic_axes)):
        if given is not None and not isinstance(given, Mapping):
            raise EXPORT.wrong_type(f"{name} needs a dict", repr(given))
    model = resolve_student(student)
    exporter = find_exporter(model)
    require("onnx", "onnx_ir", "onnxruntime", *exporter.PACKAGES)
    from onnx.defs import onnx_opset_version

    target = Path(path)
    check_path(target)
    if opset is not None:
        opset = EXPORT.integer("opset", opset, minimum=1, maximum=onnx_opset_version())
    example, by_keyword = read_inputs(input_shape, example_input, dtype, input_names)
    axes = free_axes(example, dynamic_batch, dynamic_axes or {})
    if dynamic_batch:  # exporters take a size of 1 for a constant
        example = {n: np.concatenate([a, a]) if len(a) == 1 else a for n, a in example.items()}
    wanted = None if output_names is None else names_of(output_names)
    request = ExportRequest(example, by_keyword, axes, wanted, opset)
    properties = as_texts(metadata or {}) | {
        "mcld_version": __version__, "framework": exporter.FRAMEWORK, "exporter": exporter.TOOL
    }  # fmt: skip
    inputs, inference = request.check_inputs(), exporter.inference(model)
    with replacement(target) as file:
        # The student runs before its exporter, so that one that changes it is found out as well.
        expected = references(inference, exporter, request, inputs)
        inputs += request.alone(inputs[-1])
        expected += request.alone(expected[-1])
        names = list(expected[0])
        graph = write_graph(inference, exporter, request, names)
        content, opset = finish(graph, request, names, properties)
        error = verify(content, inputs, expected, tolerance)
        file.write(content)
    return ExportReport(
        path=target,
        framework=exporter.FRAMEWORK,
        exporter=exporter.TOOL,
        opset=opset,
        size=len(content),
        max_relative_error=error,
        batch_sizes=tuple(sorted(set(map(rows_of, inputs)))),
        inputs=tuple(example),
        outputs=tuple(names),
    )

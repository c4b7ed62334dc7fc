"""ONNX files of a distilled student, verified before they appear."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core.export.deploy import (
    Deployed,
    Latency,
    compare_latency,
    convert_float16,
    quantize_int8,
)
from mcld_core.export.graph import check_metadata, check_path, describe, drafted, finish
from mcld_core.export.inputs import (
    ExportRequest,
    example_inputs,
    free_axes,
    logits_among,
    require,
)
from mcld_core.export.student import (
    find_exporter,
    references,
    resolve_student,
    run_student,
    write_graph,
)
from mcld_core.export.verify import ExportReport, as_probabilities, check_rows, verify

__all__ = [
    "Deployed",
    "ExportReport",
    "Latency",
    "compare_latency",
    "convert_float16",
    "export_onnx",
    "quantize_int8",
]


def export_onnx(
    student: Any,
    path: str | os.PathLike[str],
    *,
    input_shape: Any = None,
    example_input: Any = None,
    dtype: Any = "float32",
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    opset: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    softmax: bool = False,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write a student as an ONNX file that is shown to compute the same.

    The framework's own exporter makes the graph (``torch.onnx.export(dynamo=True)``, Keras'
    ``export``, tf2onnx, jax2onnx). Before the file appears, onnx.checker runs with full shape
    inference, and onnxruntime is compared with the student in evaluation mode (batch norm and
    dropout off) on batches of other sizes than the exporter has seen:
    ``max |onnx − student| / max |student|``, by row of logits, stays within `tolerance`, and the
    arg max is the same, ties within the tolerance excepted. If not, an error says how far off it
    is and no file is written. The file comes under a temporary name and is then renamed.

    Args:
        student: a torch module, a Keras model, a tf.function, tf.Module or SavedModel (or its
            path, or that of a .keras file), a JAX function, a flax nnx module. A distiller
            (``.student``) or a checkpoint (``["student"]``) gives its student: the teacher is
            never in the graph. Its train or eval mode is restored.
        path: the file to write; it holds the weights too (up to 2 GiB).
        input_shape: sizes without the batch axis, such as ``(3, 32, 32)``; several inputs: a
            tuple of shapes, or a dict by name. For float inputs only.
        example_input: instead, an array (batch, ...) of real rows; several: a tuple (the student
            is called by position) or a dict (called by keyword; a Keras model gets the tuple as
            a list, the dict as it is). Its dtypes are the graph's.
        dtype: the type of `input_shape`'s inputs, or one for each. Default float32.
        input_names: default: the dict's keys, else ``input`` or ``input_0``, ``input_1``.
        output_names: default: ``logits``, the keys of a dict, or ``output_0``, ``output_1``.
        dynamic_batch: whether the batch axis has a free size. Default True.
        dynamic_axes: other axes of free size, ``{"tokens": {1: "time"}}`` (axis 0 is the batch).
            The example's size is the largest that is checked.
        opset: the operator set; default: the exporter's own.
        metadata: what a reader of the file needs: ``classes`` (names),
            ``normalization`` (``{"mean": [...], "std": [...]}`` of channels in 0..1),
            ``layout`` (``"NCHW"`` or ``"NHWC"``), ``center_crop`` (which share of an image's
            shorter side is kept, such as 0.875), teacher, accuracy, anything that JSON holds.
            Library, framework, exporter and error are added.
        softmax: append a softmax, so that the outputs are probabilities. Default False.
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
    if not tolerance > 0:
        raise ValueError(f"export_onnx: tolerance needs to be above 0; got {tolerance}.")
    model = resolve_student(student)
    framework, exporter = find_exporter(model)
    require("onnx", "onnx_ir", "onnxruntime", *exporter.PACKAGES)
    target = Path(path)
    check_path(target, "export_onnx")
    example, by_keyword = example_inputs(input_shape, example_input, dtype, input_names)
    axes = free_axes(example, dynamic_batch, dynamic_axes or {})
    if dynamic_batch:  # exporters take a size of 1 for a constant
        example = {n: np.concatenate([a, a]) if len(a) == 1 else a for n, a in example.items()}
    wanted = None if output_names is None else tuple(output_names)
    request = ExportRequest(example, by_keyword, axes, wanted, opset)
    known = check_metadata(metadata or {}, request)
    inputs = list(request.check_inputs())
    with exporter.evaluation(model) as inference, drafted(target) as draft:
        # The student runs before its exporter, so that one that changes it is found out as well.
        expected = references(inference, exporter, request, inputs)
        check_rows(
            partial(run_student, inference, exporter, request),
            request, inputs[-1], expected[-1], tolerance, "student",
        )  # fmt: skip
        names = list(expected[0])
        tool = write_graph(inference, exporter, framework, request, names, draft)
        described = describe(known, framework, tool, softmax, expected[0])
        version = finish(draft, request, names, softmax=softmax, metadata=described)
        if softmax:
            for found in expected:
                found |= {name: as_probabilities(found[name]) for name in logits_among(found)}
        error = verify(draft, request, inputs, expected, tolerance)
    return ExportReport(
        path=target,
        framework=framework,
        exporter=tool,
        opset=version,
        size=target.stat().st_size,
        max_relative_error=error,
        batch_sizes=tuple(next(iter(feeds.values())).shape[0] for feeds in inputs),
        inputs=tuple(request.example),
        outputs=tuple(names),
    )

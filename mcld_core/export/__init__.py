"""ONNX files of a distilled student, verified before they appear."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from mcld_core.export.graph import check_path, decode_metadata, drafted, encode_metadata, finish
from mcld_core.export.inputs import Arrays, ExportRequest, build_request
from mcld_core.export.packages import require
from mcld_core.export.student import Exporter, find_exporter, resolve_student
from mcld_core.export.verify import verify

__all__ = [
    "Deployed",
    "ExportReport",
    "Latency",
    "compare_latency",
    "convert_float16",
    "export_onnx",
    "quantize_int8",
]


@dataclass(frozen=True)
class ExportReport:
    """What `export_onnx` wrote, and how close it is.

    Args:
        path: the file.
        framework: the student's framework.
        exporter: the exporter that made the graph.
        opset: the ONNX operator set.
        size: bytes of the file.
        max_relative_error: the largest that the verification saw.
        batch_sizes: the batches that it ran.
        inputs: names of the inputs.
        outputs: names of the outputs.
    """

    path: Path
    framework: str
    exporter: str
    opset: int
    size: int
    max_relative_error: float
    batch_sizes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.path.name}: {self.size / 1e3:,.0f} kB, {self.framework} by {self.exporter}, "
            f"opset {self.opset}, relative error {self.max_relative_error:.1e} on batches of "
            f"{', '.join(map(str, self.batch_sizes))}"
        )


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
        metadata: what `python -m mcld_core predict` and a reader need: ``classes`` (names),
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
    require("onnx", "onnx")
    require("onnxruntime", "onnxruntime")
    target = Path(path)
    check_path(target, "export_onnx")
    known = _check_metadata(metadata or {})
    if not tolerance > 0:
        raise ValueError(f"export_onnx: tolerance needs to be above 0; got {tolerance}.")
    model = resolve_student(student)
    framework, exporter = find_exporter(model)
    request = build_request(
        input_shape=input_shape,
        example_input=example_input,
        dtype=dtype,
        input_names=input_names,
        output_names=output_names,
        dynamic_batch=dynamic_batch,
        dynamic_axes=dynamic_axes,
        opset=opset,
    )
    inputs = list(request.check_inputs())
    with exporter.evaluation(model) as inference, drafted(target) as draft:
        # The student runs before its exporter, so that one that changes it is found out as well.
        expected = _references(inference, exporter, request, inputs)
        names = list(expected[0])
        tool = _write(inference, exporter, framework, request, names, draft)
        described = _describe(known, framework, tool, softmax, expected[0])
        version = finish(draft, request, names, softmax=softmax, metadata=described)
        if softmax:
            expected = [{n: _softmax(a) for n, a in found.items()} for found in expected]
        error = verify(draft, inputs, expected, tolerance)
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


def _references(
    student: Any, exporter: Exporter, request: ExportRequest, inputs: Sequence[Arrays]
) -> list[Arrays]:
    """The student's own outputs under the names that the file shall have."""
    found = [exporter.run(student, request, feeds) for feeds in inputs]
    names = request.output_names or tuple(found[0])
    if len(names) != len(found[0]):
        raise ValueError(
            f"export_onnx: output_names needs {len(found[0])} names, one an output of the student "
            f"({list(found[0])}); got {list(names)}."
        )
    return [dict(zip(names, outputs.values(), strict=True)) for outputs in found]


def _write(
    student: Any,
    exporter: Exporter,
    framework: str,
    request: ExportRequest,
    names: Sequence[str],
    draft: Path,
) -> str:
    try:
        return exporter.write(student, request, names, draft)
    except ImportError:
        raise
    except Exception as error:
        raise RuntimeError(
            f"export_onnx: the exporter of {framework} fails on the student; got "
            f"{type(error).__name__}: {error}; no file was written. Try another opset, or "
            "rewrite the layer that it names."
        ) from error


def _softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _check_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata as the file will hold them."""
    known = decode_metadata(encode_metadata(metadata))
    classes = known.get("classes")
    if classes is not None and not isinstance(classes, list):
        raise ValueError(
            f"export_onnx: metadata classes needs a list of names; got {classes!r}; leave it out "
            "where there are none."
        )
    return known


def _describe(
    metadata: Mapping[str, Any],
    framework: str,
    exporter: str,
    softmax: bool,
    outputs: Arrays,
) -> dict[str, Any]:
    from mcld_core import __version__

    classes = metadata.get("classes")
    widths = {name: array.shape[-1] for name, array in outputs.items()}
    if classes is not None and set(widths.values()) != {len(classes)}:
        raise ValueError(
            f"export_onnx: metadata classes needs one name for each logit; got {len(classes)} "
            f"names, the last axes of the outputs are {widths}."
        )
    return {
        **metadata,
        "mcld_version": __version__,
        "framework": framework,
        "exporter": exporter,
        "softmax": softmax,
    }

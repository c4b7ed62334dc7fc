"""The ONNX file: where it may go, its names and metadata, and the proof that it is the student."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcld_core.export.inputs import EXPORT, Arrays, ExportRequest, rows_of, told

SMALL_ROW = 1e-3
"""A row's scale is at least this share of the batch's, so that a row of zeros can be compared."""

CONSTANT = "An axis was exported as a constant: see dynamic_batch and dynamic_axes"


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
        batch_sizes: the sizes of the batches that it ran.
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


def check_path(path: Path) -> None:
    """Raise for a name of another kind, and where a file of another kind would be lost."""
    import onnx

    if path.suffix != ".onnx":
        cure = f"Write {path.with_suffix('.onnx') if path.name else 'student.onnx'}"
        raise EXPORT.wrong("path needs a name that ends in .onnx", path, cure)
    if not path.exists() or not path.stat().st_size:
        return
    try:
        is_onnx = onnx.load(str(path), load_external_data=False).HasField("graph")
    except Exception:  # a type of protobuf's own
        is_onnx = False
    if not is_onnx:
        came = f"{path}, which is there and is not an ONNX file"
        cure = "Remove it, or choose another name"
        raise EXPORT.wrong("path needs a new name or an ONNX file to replace", came, cure)


def as_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The metadata as strings: texts as they are, all else as JSON; None is left out."""
    found = {}
    for key, value in metadata.items():
        try:  # arrays of any framework are lists
            is_text = isinstance(value, str)
            text = value if is_text else json.dumps(value, default=lambda x: x.tolist())
        except (AttributeError, TypeError, ValueError) as error:
            came = f"{key!r} of type {type(value).__name__}"
            raise EXPORT.wrong_type("metadata needs texts, or what JSON holds", came) from error
        if value is not None:
            found[str(key)] = text
    return found


def finish(
    model: Any, request: ExportRequest, outputs: Sequence[str], metadata: Mapping[str, str]
) -> tuple[bytes, int]:
    """Name inputs, outputs and axes, add metadata; return the file and its opset.

    Args:
        model: an ``onnx_ir.Model`` as the exporter wrote it; changed.
        request: what was asked for.
        outputs: the names that the file shall have.
        metadata: of the file.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass, NameFixPass

    opset = int(model.opset_imports[""])
    if request.opset not in (None, opset):
        needs = f"opset {request.opset} is not what the exporter wrote"
        raise EXPORT.wrong(needs, opset, "Ask for that one, or leave opset out")
    _name_inputs(model.graph, list(request.example))
    _name_axes(model.graph, request)
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
    NameFixPass()(model)  # what lies inside gives way to the new names
    ClearMetadataAndDocStringPass()(model)  # stack traces, with local paths
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    return ir.to_proto(model).SerializeToString(), opset


def _name_inputs(graph: Any, names: Sequence[str]) -> None:
    present = [value.name for value in graph.inputs]
    if len(present) != len(names):
        cure = "The student ignores an input: leave it out"
        if len(present) > len(names):
            cure = "The student captures a tensor: make it a variable, or a constant inside"
        needs = f"the graph needs the inputs {list(names)}, which the student takes"
        raise EXPORT.wrong(needs, present, cure)
    if set(present) != set(names):  # the exporter kept the order, not the names
        for value, name in zip(graph.inputs, names, strict=True):
            value.name = name


def _name_axes(graph: Any, request: ExportRequest) -> None:
    """Call the free axes by their names; exporters make some up ("unk__20").

    The shapes that they note inside the graph go: some are wrong, and readers infer them.
    """
    import onnx_ir as ir

    known: dict[str, int | str] = {}
    for value in graph.inputs:
        shape = request.symbolic_shape(value.name)
        pairs = zip(value.shape, shape, strict=True)
        known |= {old.value: new for old, new in pairs if getattr(old, "value", None)}
        value.shape = ir.Shape(shape)
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    for value in graph.outputs:
        sizes = [known.get(str(size), size) for size in value.shape]
        value.shape = ir.Shape(["batch", *sizes[1:]] if request.free_batch else sizes)


def verify(
    content: bytes, inputs: Sequence[Arrays], expected: Sequence[Arrays], tolerance: float
) -> float:
    """Check a file's content by onnx and compare it with the framework; return the largest error.

    ``inputs`` has an array for each input of each check, ``expected`` the framework's outputs in
    evaluation mode, of rows alone those in their batch. Raises where the file is invalid, or an
    output's shape, value or arg max is another.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    cure = "Try another opset, rewrite the layer that it names, or export float32 (onnxruntime"
    cure += " lacks some operators of other types)"
    with told("the exported file is not valid ONNX, or onnxruntime cannot load it", cure):
        onnx.checker.check_model(content, full_check=True)
        runner = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    worst = 0.0
    for feeds, wanted in zip(inputs, expected, strict=True):
        shapes = {name: array.shape for name, array in feeds.items()}
        with told(f"onnxruntime fails with inputs {shapes}", CONSTANT):
            outputs = runner.run(list(wanted), feeds)
        for got, (name, reference) in zip(outputs, wanted.items(), strict=True):
            worst = max(worst, compare(name, got, reference, rows_of(feeds), tolerance))
    return worst


def compare(
    name: str, got: NDArray[Any], reference: NDArray[Any], batch: int, tolerance: float
) -> float:
    """Return the relative error of an output; raise where it is not the student's."""
    needs = f"output {name!r} of {reference.dtype} differs between ONNX and the student"
    if got.shape != reference.shape:
        came = f"shape {got.shape} for {reference.shape} at a batch of {batch}"
        raise EXPORT.wrong(needs, came, CONSTANT)
    if reference.dtype.kind != "f":
        if not np.array_equal(got, reference):
            came = f"{int((got != reference).sum())} such places at a batch of {batch}"
            raise EXPORT.wrong(needs, came, "Leave it out: it can be made of the logits")
        return 0.0
    if reference.ndim == 1:  # a number a row
        got, reference = got[:, None], reference[:, None]
    error = relative_error(got, reference)
    if error > tolerance:
        cure = "In evaluation mode a row's output needs to be the same alone as in a batch: without"
        cure += " the batch's statistics (such as batch norm in training), its size, or chance"
        if reference.dtype == np.float16:
            cure += ". float16 holds three digits: give tolerance=0.01, or export float32"
        raise EXPORT.wrong(needs, _error(error, tolerance, batch), cure)
    chosen = np.take_along_axis(reference, got.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    allowed = tolerance * np.abs(reference).max(axis=-1)  # two logits may be as good as equal
    differing = int((reference.max(axis=-1) - chosen > allowed).sum())
    if differing:
        needs = f"the arg max of output {name!r} differs in {differing} rows"
        raise EXPORT.wrong(needs, _error(error, tolerance, batch))
    return error


def relative_error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest `|got − expected|` over the largest `|expected|` of its row.

    A row is one vector of logits: the last axis. Rows of almost nothing are held to
    `SMALL_ROW` of the batch's scale.
    """
    if not expected.size:
        return 0.0
    scale = np.abs(expected.astype(np.float64)).max(axis=-1, keepdims=True)
    least = max(SMALL_ROW * float(scale.max()), float(np.finfo(np.float32).tiny))
    error = np.abs(got.astype(np.float64) - expected.astype(np.float64)) / np.maximum(scale, least)
    return float(np.nan_to_num(error, nan=np.inf).max())


def _error(error: float, tolerance: float, batch: int) -> str:
    text = f"a relative error of {error:.2e} at a batch of {batch}"
    return f"{text}, the tolerance is {tolerance:.1e}"

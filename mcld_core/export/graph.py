"""What an exported graph becomes: named, one file with its metadata; and where it may go."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcld_core.export.inputs import EXPORT, ExportRequest, refused


def check_path(path: Path) -> None:
    """Raise where no ONNX file can be written, or where a file of another kind would be lost."""
    if path.suffix != ".onnx":
        cure = f"Write {path.with_suffix('.onnx') if path.name else 'student.onnx'}"
        raise EXPORT.wrong("path needs a name that ends in .onnx", path, cure)
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        error = EXPORT.wrong("path needs a folder that exists", path, f"Create {folder}")
        raise FileNotFoundError(str(error))
    if path.exists() and path.stat().st_size and not _is_onnx(path):
        came = f"{path}, which is there and is not an ONNX file"
        cure = "Remove it, or choose another name"
        raise EXPORT.wrong("path needs a new name or an ONNX file to replace", came, cure)


def _is_onnx(path: Path) -> bool:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # a type of protobuf's own
        return False
    return model.ir_version > 0 and model.HasField("graph")


def as_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The metadata as strings: texts as they are, all else as JSON; None is left out."""
    found = {}
    for key, value in dict(metadata).items():
        if value is None or isinstance(value, str):
            found[str(key)] = value
            continue
        try:  # arrays of any framework are lists
            found[str(key)] = json.dumps(value, default=lambda x: x.tolist())
        except (AttributeError, TypeError, ValueError) as error:
            came = f"{key!r} of type {type(value).__name__}"
            raise EXPORT.wrong_type("metadata needs texts, or what JSON holds", came) from error
    return {key: text for key, text in found.items() if text is not None}


def finish(
    model: Any,
    request: ExportRequest,
    outputs: Sequence[str],
    metadata: Mapping[str, str],
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
        cure = "Ask for that one, or leave opset out"
        raise refused(needs, opset, cure)
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
        raise refused(needs, present, cure)
    if set(present) != set(names):  # the exporter kept the order, not the names
        for value, name in zip(graph.inputs, names, strict=True):
            value.name = name


def _name_axes(graph: Any, request: ExportRequest) -> None:
    """Call the free axes by their names; exporters make some up ("unk__20").

    The shapes that they note inside the graph go: some are wrong, and readers infer them.
    """
    import onnx_ir as ir

    known: dict[str | None, int | str] = {}
    for value in graph.inputs:
        shape = request.symbolic_shape(value.name)
        for old, new in zip(value.shape, shape, strict=True):
            if isinstance(old, ir.SymbolicDim):
                known[old.value] = new
        value.shape = ir.Shape(shape)
    known.pop(None, None)
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    for value in graph.outputs:
        sizes = [known.get(str(size), size) for size in value.shape]
        if request.free_batch and not isinstance(sizes[0], int):
            sizes[0] = "batch"
        value.shape = ir.Shape(sizes)

"""Changes to an exported ONNX model: names, softmax, metadata, one file."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mcld_core.export.inputs import Arrays, ExportRequest, logits_among

LARGEST = 2**31 - 1
"""Bytes that a protobuf message, and so an ONNX file without a second one, can hold."""

DIGEST = "mcld_sha256"
"""The key of the metadata under which a file says what its network's bytes are."""


def check_path(path: Path, function: str) -> None:
    """Raise where no ONNX file can be written to the path, or would be read as another format."""
    from onnx.serialization import registry

    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{function}: path needs a folder that exists; got {path}; create {folder}."
        )
    if path.is_dir():
        raise IsADirectoryError(f"{function}: path needs a file; got {path}, a folder.")
    kind = registry.get_format_from_file_extension(path.suffix)
    if kind not in (None, "protobuf") or path.suffix == ".ort":
        raise ValueError(
            f"{function}: path needs a name for ONNX, such as {path.stem}.onnx; got {path}, which "
            "would be read as another format."
        )


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """A draft to write to, alone in a folder; it becomes `path` where no error comes.

    Its name is short and its end says the format, whatever those of `path`. Where `path` is a
    link, the file behind it is replaced. SIGTERM removes the draft, too.
    """
    target = Path(os.path.realpath(path))
    with (
        _unwinding_at_sigterm(),
        tempfile.TemporaryDirectory(prefix=".mcld.", dir=target.parent) as folder,
    ):
        draft = Path(folder) / "draft.onnx"
        yield draft
        os.replace(draft, target)


@contextmanager
def _unwinding_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process by an exception, unless somebody else has a handler."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def finish(
    path: Path,
    request: ExportRequest,
    output_names: Sequence[str],
    *,
    softmax: bool,
    metadata: Mapping[str, Any],
) -> int:
    """Give inputs, outputs and axes their names, add softmax and metadata; return the opset."""
    import onnx
    import onnx_ir as ir
    from onnx_ir.passes.common import NameFixPass

    # with the external data, should the exporter have made some
    model = ir.from_proto(onnx.load(str(path)))
    _name_inputs(model.graph, list(request.example))
    _name_outputs(model.graph, output_names)
    _name_axes(model.graph, request)
    if softmax:
        _append_softmax(model.graph, logits_among(output_names))
    opset = model.opset_imports[""]
    if request.opset not in (None, opset):
        raise ValueError(
            f"export_onnx: opset {request.opset} is not what the exporter wrote; got {opset}; no "
            "file was written. Ask for that one, or leave opset out."
        )
    NameFixPass()(model)  # what lies inside gives way to the new names
    finished = ir.to_proto(model)
    _forget_origin(finished.graph)
    onnx.helper.set_model_props(finished, encode_metadata(metadata))
    write_single(finished, path)
    return opset


def write_single(model: Any, path: Path) -> None:
    """Write the model as one file, weights included, with the digest that `check_digest` reads."""
    size = model.ByteSize()
    if size > LARGEST:
        raise ValueError(
            f"export_onnx: one ONNX file holds {LARGEST} bytes; got a student of {size}; no file "
            "was written. Export a smaller student, or one of half precision."
        )
    import onnx

    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, known | {DIGEST: ""})
    size = _network_size(model)
    content = model.SerializeToString()
    entry = next(entry for entry in model.metadata_props if entry.key == DIGEST)
    entry.value = f"{hashlib.sha256(memoryview(content)[:size]).hexdigest()} {size}"
    path.write_bytes(model.SerializeToString())


def _network_size(model: Any) -> int:
    """Bytes before the metadata, which other tools may edit; protobuf orders fields by number."""
    rest = type(model)()
    first = rest.DESCRIPTOR.fields_by_name["metadata_props"].number
    for field, values in model.ListFields():
        if field.number >= first:
            getattr(rest, field.name).extend(values)
    return int(model.ByteSize() - rest.ByteSize())


def is_intact(path: Path, metadata: Mapping[str, str]) -> bool:
    """Whether the network's bytes are those that `write_single` wrote; True where none says."""
    digest, _, size = metadata.get(DIGEST, "").partition(" ")
    with path.open("rb") as file:
        return not size or hashlib.sha256(file.read(int(size))).hexdigest() == digest


def encode_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """ONNX metadata are strings: those that are not JSON stay, all else becomes JSON."""
    return {str(key): _encode(key, x) for key, x in metadata.items() if x is not None}


def _encode(key: Any, value: Any) -> str:
    if isinstance(value, str) and _decode(value) == value:
        return value
    try:
        return json.dumps(value, default=lambda array: array.tolist())  # of NumPy, or any framework
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"export_onnx: metadata needs what JSON holds; got {key!r} of type "
            f"{type(value).__name__}; give texts, numbers, or lists and dicts of them."
        ) from error


def decode_metadata(properties: Mapping[str, str]) -> dict[str, Any]:
    """Undo `encode_metadata`; what is not JSON is a string."""
    return {key: _decode(value) for key, value in properties.items()}


def _decode(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def check_metadata(metadata: Mapping[str, Any], request: ExportRequest) -> dict[str, Any]:
    """The metadata as the file will hold them, for inputs of this kind."""
    known = decode_metadata(encode_metadata(metadata))
    classes = known.get("classes")
    if classes is not None and not isinstance(classes, list):
        raise ValueError(
            f"export_onnx: metadata classes needs a list of names; got {classes!r}; leave it out "
            "where there are none."
        )
    shapes = [array.shape for array in request.example.values()]
    if len(shapes) == 1 and len(shapes[0]) == 4:
        image_format(shapes[0], known, "export_onnx")
    return known


@dataclass(frozen=True)
class ImageFormat:
    """What the metadata say of an input of images."""

    layout: str  # NCHW or NHWC
    channels: int
    center_crop: float | None  # which part of the shorter side is kept; None: all of the image
    mean: list[float]  # by channel, or one for all, of pixels in 0..1
    std: list[float]  # the same


def image_format(shape: Sequence[Any], metadata: Mapping[str, Any], function: str) -> ImageFormat:
    """Read ``layout`` (else 1 or 3 channels tell it), ``normalization`` and ``center_crop``.

    Raise where these metadata do not fit the input's shape (four axes; a free one is not an int),
    or are of another kind. ``function`` is who asks, for the errors.
    """
    pictures = {layout: shape[layout.index("C")] in (1, 3) for layout in ("NCHW", "NHWC")}
    layout = metadata.get("layout") or ("NCHW" if pictures["NCHW"] else "NHWC")
    if layout not in pictures or (any(pictures.values()) and not pictures[layout]):
        raise ValueError(
            f"{function}: metadata layout needs to be 'NCHW' or 'NHWC', as the input's channels "
            f"stand; got {layout!r} for the shape {tuple(shape)}; correct it."
        )
    channels = shape[layout.index("C")]
    crop = metadata.get("center_crop")
    if crop is not None and not (isinstance(crop, (int, float)) and 0 < crop <= 1):
        raise ValueError(
            f"{function}: metadata center_crop needs a share above 0, up to 1; got {crop!r}; "
            "correct it, or leave it out."
        )
    known = metadata.get("normalization") or {}
    if not isinstance(known, Mapping):
        raise ValueError(
            f"{function}: metadata normalization needs a dict of mean and std; got {known!r}; "
            "correct it, or leave it out."
        )
    numbers = []
    for key, default in (("mean", 0.0), ("std", 1.0)):
        given = known.get(key, default)
        values = given if isinstance(given, list) else [given]
        finite = all(isinstance(x, (int, float)) and math.isfinite(x) for x in values)
        if not finite or len(values) not in (1, channels) or (key == "std" and min(values) <= 0):
            raise ValueError(
                f"{function}: metadata normalization needs one {key} for each of {channels} "
                f"channels, or one for all, finite (std: above 0); got {given!r}; correct it."
            )
        numbers.append([float(x) for x in values])
    return ImageFormat(layout, channels, crop, *numbers)


def describe(
    metadata: Mapping[str, Any], framework: str, exporter: str, softmax: bool, outputs: Arrays
) -> dict[str, Any]:
    classes = metadata.get("classes")
    widths = {name: array.shape[-1] for name, array in outputs.items()}
    if classes is not None and len(classes) not in [widths[n] for n in logits_among(widths)]:
        raise ValueError(
            f"export_onnx: metadata classes needs one name for each logit; got {len(classes)} "
            f"names, the last axes of the outputs are {widths}."
        )
    return {
        **metadata,
        "mcld_version": version("mcld"),
        "framework": framework,
        "exporter": exporter,
        "softmax": softmax,
    }


def _name_inputs(graph: Any, names: Sequence[str]) -> None:
    present = [value.name for value in graph.inputs]
    if len(present) != len(names):
        cure = "The student ignores an input: leave it out."
        if len(present) > len(names):
            cure = "The student captures a tensor: make it a variable, or a constant inside."
        raise ValueError(
            f"export_onnx: the graph has the inputs {present} where the student takes {list(names)}"
            f"; no file was written. {cure}"
        )
    if set(present) != set(names):  # the exporter kept the order, not the names
        for value, name in zip(graph.inputs, names, strict=True):
            value.name = name


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    if len(graph.outputs) != len(names):
        raise ValueError(
            f"export_onnx: output_names needs {len(graph.outputs)} names, one an output; got "
            f"{list(names)}."
        )
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


def _name_axes(graph: Any, request: ExportRequest) -> None:
    """Call the dynamic axes by their names; exporters make some up ("unk__20")."""
    import onnx_ir as ir

    known: dict[str | None, int | str] = {}
    for value in graph.inputs:
        shape = request.symbolic_shape(value.name)
        for old, new in zip(value.shape, shape, strict=True):
            if isinstance(old, ir.SymbolicDim):
                known[old.value] = new
        value.shape = ir.Shape(shape)
    known.pop(None, None)
    for value in (*graph.outputs, *(x for node in graph for x in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(known.get(str(size), size) for size in value.shape)
    for value in graph.outputs:
        if request.free_batch and not isinstance(value.shape[0], int):
            value.shape = ir.Shape(["batch", *value.shape[1:]])


def _forget_origin(graph: Any) -> None:
    """Drop the exporter's notes: stack traces, larger than a small student, with local paths."""
    notes = (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for entry in (graph, *notes):
        entry.ClearField("doc_string")
        entry.ClearField("metadata_props")


def _append_softmax(graph: Any, names: Sequence[str]) -> None:
    import onnx_ir as ir

    for place, logits in enumerate(graph.outputs):
        if logits.name in names:
            node = ir.node("Softmax", [logits], {"axis": -1}, name=f"{logits.name}/softmax")
            (output,) = node.outputs
            output.name, output.type, output.shape = logits.name, logits.type, logits.shape
            logits.name = f"{logits.name}/logits"
            graph.append(node)
            graph.outputs[place] = output

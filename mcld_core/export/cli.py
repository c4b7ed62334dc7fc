"""``python -m mcld_core export --checkpoint … --out …``: a checkpoint's student as ONNX."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcld_core.export import convert_float16, export_onnx, quantize_int8
from mcld_core.export.student import load_student


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        _export(options)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mcld_core export",
        description="Write a checkpoint's student as an ONNX file, verified before it appears.",
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="a torch checkpoint, .keras or SavedModel")
    add("--out", type=Path, required=True, help="the ONNX file to write")
    add(
        "--model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="makes the module of a torch checkpoint: of its name, image shape and classes",
    )
    add(
        "--load",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="reads any other checkpoint: called with its path, returns the student, or (student, "
        "input shape, metadata)",
    )
    add("--input-shape", type=_shape, help="sizes without the batch axis, such as 3,32,32")
    add("--opset", type=int, help="ONNX operator set (default: the exporter's own)")
    add("--softmax", action="store_true", help="probabilities instead of logits")
    add("--tolerance", type=float, default=1e-4, help="largest relative error (default: 1e-4)")
    add("--class-names", type=Path, metavar="FILE", help="names of the classes, one a line")
    add("--mean", type=_numbers, help="of the pixels in 0..1, by channel, such as 0.51,0.49,0.44")
    add("--std", type=_numbers, help="of the pixels in 0..1, by channel")
    add("--evaluation", type=Path, metavar="NPZ", help="arrays inputs and labels, and calibration")
    add("--float16", action="store_true", help="also write OUT.float16.onnx")
    add("--int8", choices=("dynamic", "static"), help="also write OUT.int8.onnx")
    add("--logits", metavar="NAME", help="the output to measure, where there are several")
    add("--max-accuracy-drop", type=float, default=0.01, help="as a share of 1 (default: 0.01)")
    return parser


def _export(options: argparse.Namespace) -> None:
    smaller = options.float16 or options.int8
    if smaller and options.evaluation is None:
        raise ValueError(
            "export: --float16 and --int8 need --evaluation, on which to measure them."
        )
    student, shape, metadata = load_student(
        options.checkpoint, model=options.model, load=options.load
    )
    if options.class_names is not None:
        metadata["classes"] = _lines(options.class_names)
    given = {"mean": options.mean, "std": options.std}
    if any(given.values()):
        known = {"mean": [0.0], "std": [1.0]} | (metadata.get("normalization") or {})
        metadata["normalization"] = known | {key: part for key, part in given.items() if part}
    shape = options.input_shape or shape
    if shape is None:
        raise ValueError("export: --input-shape is needed where the checkpoint does not say it.")
    rows = _rows(options, tuple(shape)) if smaller else {}  # read before anything is written
    report = export_onnx(
        student,
        options.out,
        input_shape=shape,
        opset=options.opset,
        softmax=options.softmax,
        tolerance=options.tolerance,
        metadata=metadata,
    )
    print(report)
    if not smaller:
        return
    limits: dict[str, Any] = {
        "evaluation": (rows["inputs"], rows["labels"]),
        "max_accuracy_drop": options.max_accuracy_drop,
        "output": options.logits,
    }
    stem = options.out.name.removesuffix(".onnx")
    if options.float16:
        target = options.out.with_name(f"{stem}.float16.onnx")
        print(convert_float16(options.out, target, **limits))
    if options.int8:
        target = options.out.with_name(f"{stem}.int8.onnx")
        print(quantize_int8(options.out, target, calibration=rows.get("calibration"), **limits))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # -sig: some editors' first bytes
    except UnicodeDecodeError as error:
        raise ValueError(f"export: --class-names needs text in UTF-8; {path}: {error}.") from error
    return text.removesuffix("\n").split("\n")  # splitlines ends a line at others, too


def _rows(options: argparse.Namespace, shape: tuple[Any, ...]) -> dict[str, Any]:
    """The arrays of ``--evaluation``, checked: inputs, labels and, for static int8, calibration."""
    path = options.evaluation
    wanted: dict[str, tuple[str, tuple[Any, ...]]] = {"inputs": ("f", shape), "labels": ("iu", ())}
    if options.int8 == "static":
        wanted["calibration"] = "f", shape
    try:
        with path.open("rb") as file, np.load(file) as data:
            found = sorted(data)
            rows = {name: data[name] for name in wanted if name in found}
    except Exception as error:  # half a dozen types for a damaged file
        raise ValueError(
            f"export: --evaluation needs an NPZ file of plain arrays; {path} cannot be read: "
            f"{error}."
        ) from error
    if len(rows) < len(wanted):
        raise ValueError(
            f"export: --evaluation needs the arrays {list(wanted)}; got {found} in {path}."
        )
    for name, (kinds, sizes) in wanted.items():
        array = rows[name]
        if array.dtype.kind not in kinds or array.shape[1:] != sizes or not array.size:
            kind = "float" if "f" in kinds else "int"
            raise ValueError(
                f"export: --evaluation needs {name} of {kind} and the shape "
                f"{('rows', *sizes)}; got {array.dtype} and {array.shape} in {path}."
            )
    if len(rows["labels"]) != len(rows["inputs"]):
        raise ValueError(
            f"export: --evaluation needs a label for each row of inputs; got "
            f"{len(rows['labels'])} and {len(rows['inputs'])} in {path}."
        )
    return rows


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]

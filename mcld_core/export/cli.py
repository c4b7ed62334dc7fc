"""``python -m mcld_core export --checkpoint … --out …``: a checkpoint's student as ONNX."""

from __future__ import annotations

import argparse
import pkgutil
import sys
from pathlib import Path
from typing import Any

from mcld_core.arguments import Checks
from mcld_core.export import export_onnx
from mcld_core.export.student import load_saved

EXPORT = Checks("export")


def add_command(commands: Any) -> None:
    """Add ``export`` to the sub-commands of a parser."""
    parser = commands.add_parser(
        "export",
        help="write a student as an ONNX file that is verified",
        description="Write a checkpoint's student as an ONNX file, verified before it appears.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="a .keras file, a SavedModel; see --load")
    add("--out", type=Path, required=True, help="the ONNX file to write")
    add(
        "--load",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="reads any other checkpoint: called with its path, returns the student, or (student, "
        "input shape, metadata)",
    )
    add("--input-shape", type=_shape, help="sizes without the batch axis, such as 3,32,32")
    add("--opset", type=int, help="ONNX operator set (default: the exporter's own)")
    add("--tolerance", type=float, default=1e-4, help="largest relative error (default: 1e-4)")


def run(options: argparse.Namespace) -> int:
    """Export and return the exit status; an error is one line."""
    try:
        _export(options)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _export(options: argparse.Namespace) -> None:
    if not options.checkpoint.exists():
        raise FileNotFoundError(f"export: the checkpoint {options.checkpoint} does not exist.")
    if options.out.exists() and options.out.samefile(options.checkpoint):
        cure = f"Write {options.checkpoint.with_suffix('.onnx')}, or another name"
        needs = "--out needs another file than --checkpoint"
        raise EXPORT.wrong(needs, f"{options.out} for both", cure)
    student, shape, metadata = _load(options.checkpoint, options.load)
    shape = options.input_shape or shape
    if shape is None:
        raise ValueError("export: --input-shape is needed where the checkpoint does not say it.")
    settings = {name: getattr(options, name) for name in ("opset", "tolerance")}
    print(export_onnx(student, options.out, input_shape=shape, metadata=metadata, **settings))


def _load(path: Path, load: str | None) -> tuple[Any, tuple[int, ...] | None, dict[str, Any]]:
    """The student of a checkpoint, its input's shape where known, and its metadata."""
    if load is None:
        if not path.is_dir() and path.suffix not in {".keras", ".h5"}:
            came = f"{path}, which is neither a .keras file nor a SavedModel"
            cure = "Give package.module:function, which is called with the path and returns the"
            raise EXPORT.wrong("--load is needed", came, f"{cure} student with its weights")
        student = load_saved(path)
        shape: Any = getattr(student, "input_shape", None)  # that of Keras, with the batch axis
        known = isinstance(shape, tuple) and all(isinstance(size, int) for size in shape[1:])
        return student, shape[1:] if known else None, {}
    try:
        read = pkgutil.resolve_name(load)
    except (ImportError, AttributeError, ValueError) as error:
        came = f"{load!r}, which cannot be imported: {error}"
        raise EXPORT.wrong("--load needs package.module:function", came) from error
    found = read(path)
    if not isinstance(found, tuple):
        return found, None, {}
    student, shape, metadata = found
    return student, shape, dict(metadata)


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"needs sizes above 0, such as 3,32,32; got {text!r}")
    return sizes

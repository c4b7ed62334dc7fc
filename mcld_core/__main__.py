"""``python -m mcld_core``: versions, devices and backends; or the command ``export``."""

from __future__ import annotations

import argparse
import importlib.util
import pkgutil
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mcld_core import __version__, export_onnx, get_backend
from mcld_core.backends import how_to_install
from mcld_core.export.inputs import EXPORT, told
from mcld_core.export.student import load_saved


def main(arguments: list[str] | None = None) -> int:
    """Print what is installed, or run a sub-command."""
    parser = argparse.ArgumentParser(
        prog="python -m mcld_core",
        description="Without a command: versions, devices and backends.",
    )
    parser.add_argument("--version", action="version", version=f"mcld {__version__}")
    about = "Write a checkpoint's student as an ONNX file, verified before it appears."
    commands = parser.add_subparsers(dest="command")
    add = commands.add_parser("export", help=about, description=about).add_argument
    add("--checkpoint", type=Path, required=True, help="a .keras file, a SavedModel; see --load")
    add("--out", type=Path, required=True, help="the ONNX file to write")
    add(
        "--load",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="reads any other checkpoint: called with its path, returns the student, or (student, "
        "input shape, metadata)",
    )
    add("--input-shape", type=sizes, help="without the batch axis, such as 3,32,32")
    add("--opset", type=int, help="ONNX operator set (default: the exporter's own)")
    add("--tolerance", type=float, default=1e-4, help="largest relative error (default: 1e-4)")
    options = parser.parse_args(arguments)
    if options.command is None:
        _report()
        return 0
    try:
        _export(options)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def sizes(text: str) -> tuple[int, ...]:
    """Read a shape; argparse says in which argument one is wrong."""
    return tuple(int(size) for size in text.split(","))


def _export(options: argparse.Namespace) -> None:
    if options.out.exists() and options.out.samefile(options.checkpoint):
        needs = "--out needs another file than --checkpoint"
        raise EXPORT.wrong(needs, f"{options.out} for both")
    student, shape, metadata = _load(options.checkpoint, options.load)
    shape = options.input_shape or shape
    if shape is None:
        raise ValueError("export: --input-shape is needed where the checkpoint does not say it.")
    settings = {"opset": options.opset, "tolerance": options.tolerance}
    print(export_onnx(student, options.out, input_shape=shape, metadata=metadata, **settings))


def _load(path: Path, load: str | None) -> tuple[Any, tuple[int, ...] | None, dict[str, Any]]:
    """The student of a checkpoint, its input's shape where known, and its metadata."""
    if load is None:
        student = load_saved(path)
        shape: Any = getattr(student, "input_shape", None)  # that of Keras, with the batch axis
        known = isinstance(shape, tuple) and all(isinstance(size, int) for size in shape[1:])
        return student, shape[1:] if known else None, {}
    try:
        read = pkgutil.resolve_name(load)
    except (ImportError, AttributeError, ValueError) as error:
        came = f"{load!r}, which cannot be imported: {error}"
        raise EXPORT.wrong("--load needs package.module:function", came) from error
    gives = "a student, or (student, input shape, metadata)"
    with told(f"--load {load} needs to read {gives} from {path}", "Mend the file or the function"):
        found = read(path)
        student, shape, metadata = found if isinstance(found, tuple) else (found, None, {})
    return student, shape, metadata


def _report() -> None:
    print(f"mcld        {__version__}   (Python {platform.python_version()})")
    for framework in ("numpy", "torch", "tensorflow", "jax", "keras", "onnx", "onnxruntime"):
        if importlib.util.find_spec(framework) is None:  # Keras comes with one to compute on
            extras = {"onnxruntime": ("onnx",), "keras": ("keras", "jax")}
            hint = how_to_install(*extras.get(framework, (framework,)))
            print(f"{framework:<12}not installed: {hint}")
        else:
            print(f"{framework:<12}{about(framework)}")
    print(f"\nbackend for plain arrays: {get_backend()}   (MCLD_BACKEND or mcld_core.set_backend)")


DEVICES: dict[str, Callable[[Any], Iterable[Any]]] = {
    "torch": lambda torch: [
        "cpu",
        *map(torch.cuda.get_device_name, range(torch.cuda.device_count())),
    ],
    "tensorflow": lambda tf: [device.name for device in tf.config.list_physical_devices()],
    "jax": lambda jax: jax.devices(),
    "keras": lambda keras: [f"on {keras.backend.backend()} (KERAS_BACKEND)"],
}


def about(framework: str) -> str:
    """The version of what is installed, and where it computes."""
    try:
        if framework == "keras":
            from mcld_core.keras import keras as module  # its error says what Keras computes on
        else:
            module = importlib.import_module(framework)
    except ImportError as error:
        return str(error)
    devices = DEVICES.get(framework, lambda _: ())(module)
    return f"{module.__version__:<12}{', '.join(map(str, devices))}"


if __name__ == "__main__":
    sys.exit(main())

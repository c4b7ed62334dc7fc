"""``python -m mcld_core``: versions, devices and backends; or the command ``export``."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import platform
import sys

from mcld_core import __version__, get_backend
from mcld_core.backends import how_to_install
from mcld_core.export.cli import add_command


def main(arguments: list[str] | None = None) -> int:
    """Print what is installed, or run a sub-command."""
    parser = argparse.ArgumentParser(
        prog="python -m mcld_core",
        description="Without a command: versions, devices and backends.",
    )
    parser.add_argument("--version", action="version", version=f"mcld {__version__}")
    add_command(parser.add_subparsers())
    options = parser.parse_args(arguments)
    if "run" in options:
        return int(options.run(options))
    _report()
    return 0


def _report() -> None:
    print(f"mcld        {__version__}   (Python {platform.python_version()})")
    for framework in ("numpy", "torch", "tensorflow", "jax", "keras", "onnx", "onnxruntime"):
        if importlib.util.find_spec(framework) is None:  # Keras comes with one to compute on
            extras = {"onnxruntime": ("onnx",), "keras": ("keras", "jax")}
            hint = how_to_install(*extras.get(framework, (framework,)))
            print(f"{framework:<12}not installed: {hint}")
        else:
            print(f"{framework:<12}{_version(framework):<12}{_devices(framework)}")
    print(f"\nbackend for plain arrays: {get_backend()}   (MCLD_BACKEND or mcld_core.set_backend)")


def _version(framework: str) -> str:
    try:
        return importlib.metadata.version(framework)
    except importlib.metadata.PackageNotFoundError:  # onnxruntime-gpu, tensorflow-cpu
        return str(importlib.import_module(framework).__version__)


def _devices(framework: str) -> str:
    if framework == "torch":
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return ", ".join(["cpu", *names])
    if framework == "tensorflow":
        import tensorflow as tf

        return ", ".join(device.name for device in tf.config.list_physical_devices())
    if framework == "jax":
        import jax

        return ", ".join(str(device) for device in jax.devices())
    if framework == "keras":
        try:
            from mcld_core.keras import keras

            return f"on {keras.backend.backend()} (KERAS_BACKEND)"
        except ImportError as error:
            return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main())

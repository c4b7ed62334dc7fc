"""``python -m mcld_core``: versions, devices and backends; or the command ``export``."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import platform
import sys

from mcld_core import __version__, get_backend


def main(arguments: list[str] | None = None) -> int:
    """Print what is installed, or run a sub-command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["export"]:
        from mcld_core.export import cli

        return cli.main(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="python -m mcld_core",
        description="Without a command: print versions, devices and backends.",
    )
    parser.add_argument("--version", action="version", version=f"mcld {__version__}")
    commands = parser.add_subparsers(title="commands")
    commands.add_parser("export", help="write a checkpoint's student as an ONNX file")
    parser.parse_args(arguments)
    _report()
    return 0


def _report() -> None:
    print(f"mcld        {__version__}   (Python {platform.python_version()})")
    for framework in ("numpy", "torch", "tensorflow", "jax", "keras", "onnx", "onnxruntime"):
        if importlib.util.find_spec(framework) is None:
            print(f"{framework:<12}not installed: pip install 'mcld[{_extra(framework)}]'")
        else:
            print(f"{framework:<12}{_version(framework):<12}{_devices(framework)}")
    print(f"\nbackend for plain arrays: {get_backend()}   (MCLD_BACKEND or mcld_core.set_backend)")


def _extra(framework: str) -> str:
    return "onnx" if framework == "onnxruntime" else framework


def _version(framework: str) -> str:
    try:
        return importlib.metadata.version(framework)
    except importlib.metadata.PackageNotFoundError:  # onnxruntime-gpu, tensorflow-cpu
        return str(importlib.import_module(framework).__version__)


def _devices(framework: str) -> str:
    if framework == "torch":
        import torch

        names = ["cpu"]
        if torch.cuda.is_available():
            names += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return ", ".join(names)
    if framework == "tensorflow":
        import tensorflow as tf

        return ", ".join(device.name for device in tf.config.list_physical_devices())
    if framework == "jax":
        import jax

        return ", ".join(str(device) for device in jax.devices())
    return ""


if __name__ == "__main__":
    sys.exit(main())

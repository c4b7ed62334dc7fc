"""Packages that only some exports need."""

from __future__ import annotations

from importlib.util import find_spec


def require(module: str, package: str, purpose: str = "export_onnx") -> None:
    """Raise an ImportError that says what to install, if the module is missing."""
    if find_spec(module) is None:
        raise ImportError(
            f"{purpose}: the package {package} is needed; got none; run `pip install {package}`."
        )

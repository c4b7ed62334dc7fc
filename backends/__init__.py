"""Which backend computes: the tensors decide, `set_backend` decides for plain arrays.

The framework of a value is found by ``isinstance`` against frameworks that are already imported,
with literal imports inside the branches: that form traces under ``torch.compile``, ``jax.jit`` and
``tf.function``, and imports nothing that the caller has not imported.
"""

from __future__ import annotations

if __name__ != "mcld_core.backends":
    raise ImportError(
        f"this package is imported as 'mcld_core.backends', not as {__name__!r}: "
        "install the clone (pip install .) and write `import mcld_core.backends`"
    )

import importlib.util
import os
import sys
from typing import Any, cast

import numpy as np

from mcld_core.backends.protocol import Backend as Backend

NAMES = ("numpy", "torch", "tensorflow", "jax")

_chosen: str | None = None


def set_backend(name: str | None) -> None:
    """Choose the backend for plain NumPy arrays and lists; ``None`` returns to ``MCLD_BACKEND``.

    Args:
        name: ``"numpy"``, ``"torch"``, ``"tensorflow"``, ``"jax"``, or None.

    Raises:
        ValueError: an unknown name.
        ImportError: the framework is not installed; the text says what to install.
    """
    global _chosen
    if name is not None:
        _load(_checked_name(name, "set_backend: name"))
    _chosen = name


def get_backend() -> str:
    """Name the backend that computes for plain NumPy arrays and lists (default ``"numpy"``)."""
    if _chosen is not None:
        return _chosen
    return _checked_name(os.environ.get("MCLD_BACKEND") or "numpy", "MCLD_BACKEND")


def framework_of(x: Any) -> str | None:
    """Name the framework whose tensor ``x`` is (tracers, parameters and variables count)."""
    if "torch" in sys.modules:
        import torch

        if isinstance(x, torch.Tensor):
            return "torch"
    if "jax" in sys.modules:
        import jax

        if isinstance(x, jax.Array):
            return "jax"
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        if isinstance(x, (tf.Tensor, tf.Variable)):
            return "tensorflow"
    return None


def backend_for(function: str, *values: Any) -> Backend:
    """Return the backend of the values, or the one for plain arrays where no value is a tensor.

    Raises:
        TypeError: tensors of two frameworks.
        ValueError, ImportError: ``MCLD_BACKEND`` names no backend, or one that is not installed.
    """
    found: str | None = None
    for value in values:
        if value is None or isinstance(value, np.ndarray):
            continue
        framework = framework_of(value)
        if framework is None or framework == found:
            continue
        if found is not None:
            raise TypeError(
                f"{function}: the arguments mix {found} and {framework} tensors; "
                "convert them to one framework (NumPy arrays may stand beside either)"
            )
        found = framework
    return _load(get_backend() if found is None else found)


def how_to_install(*extras: str) -> str:
    """Return the command that brings extras along; MCLD is installed from a clone, not an index."""
    return f"in a clone of MCLD, pip install '.[{','.join(extras)}]'"


def _checked_name(name: str, argument: str) -> str:
    if name not in NAMES:
        raise ValueError(
            f"{argument} needs one of {', '.join(NAMES)}; got {name!r}. "
            "Keras uses the backend of its own (KERAS_BACKEND)"
        )
    return name


def _load(name: str) -> Backend:
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        raise ImportError(
            f"the {name!r} backend needs {name}, which is not installed: {how_to_install(name)}"
        )
    ops: Any
    if name == "torch":
        from mcld_core.backends import torch as ops
    elif name == "tensorflow":
        from mcld_core.backends import tensorflow as ops
    elif name == "jax":
        from mcld_core.backends import jax as ops
    else:
        from mcld_core.backends import numpy as ops
    return cast(Backend, ops)

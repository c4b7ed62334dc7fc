"""Student and teacher networks, a module a framework, and what the names of models mean.

``mlp-64`` and ``conv-32`` are small networks for laptops, a module's own. A name of `tables` is a
network of the literature, whose layers a framework imports when it is asked for. A name with a
colon, ``module:function``, is a model of the reader's own.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..files import DataError

Shape = tuple[int, int, int]
"""Height, width and channels of the images."""
Described = tuple[str, dict[str, Any]]
"""A family of networks and its settings."""


def describe(name: str, more: Mapping[str, Described] = {}) -> Described:
    """Return the family and settings of a model by its name.

    Args:
        name: ``mlp-64`` or ``mlp-256-128`` (hidden widths), ``conv-32`` (first width), or a network
            of the literature: one of `tables.CIFAR_MODELS`.
        more: other names that are known.

    Raises:
        DataError: an unknown name.
    """
    family, *numbers = name.split("-")
    if numbers and all(number.isdigit() and int(number) > 0 for number in numbers):
        if family == "mlp":
            return "mlp", {"widths": [int(number) for number in numbers]}
        if family == "conv" and len(numbers) == 1:
            return "convnet", {"width": int(numbers[0])}
    from .tables import CIFAR_MODELS

    known = CIFAR_MODELS | dict(more)
    if name in known:
        return known[name]
    raise DataError(
        f"unknown model {name!r}; known: mlp-WIDTH[-WIDTH…], conv-WIDTH, "
        f"{', '.join(known)}, or module:function"
    )


def call_own(name: str, image_shape: Sequence[int], classes: int, **more: Any) -> Any:
    """Return what the function ``module:function`` returns.

    The module is found as ``python -m module`` would find it: installed, or in this folder. The
    function is given those of ``image_shape`` (height, width, channels), ``classes``,
    ``num_classes`` and ``more`` that it has parameters for, and no others.

    Raises:
        DataError: there is no such function, or it fails: it is the user's code.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"{name!r} needs to be module:function ({error})") from error
    if not callable(found):
        raise DataError(f"{name!r} is not a function that returns the model")
    known = {"image_shape": tuple(image_shape), "classes": classes, "num_classes": classes} | more
    try:
        taken = inspect.signature(found).parameters
        return found(**{key: value for key, value in known.items() if key in taken})
    except Exception as error:
        raise DataError(f"{name}: {type(error).__name__}: {error}") from error


def list_models(size: Callable[[str], int], more: str, names: Sequence[str] | None = None) -> str:
    """Return the models' names and sizes, a line each: those of CIFAR, or the given ones."""
    if names is None:
        from .tables import CIFAR_MODELS

        names = list(CIFAR_MODELS)
    lines = [f"  {name:14} {size(name):>10,} parameters" for name in names]
    return "\n".join([f"mlp-WIDTH[-WIDTH…], conv-WIDTH, {more}:", *lines])


def read_notes(path: Any, notes: Mapping[str, Any]) -> tuple[str, tuple[int, int, int], int]:
    """Return name, image shape and number of classes from the notes of a kept model.

    Raises:
        DataError: the notes do not say them.
    """
    try:
        height, width, channels = notes["image_shape"]
        return str(notes["model"]), (int(height), int(width), int(channels)), len(notes["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} does not say model, image_shape and classes; pass the last.npz or best.npz "
            "of a run, which hold the model alone"
        ) from error

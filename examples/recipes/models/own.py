"""Models of the reader's own: ``module:function``."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..files import DataError


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

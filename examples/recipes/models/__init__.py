"""Student and teacher networks, a module a framework, and what the names of models mean.

``mlp-64`` and ``conv-32`` are small networks for laptops, a module's own. A name of `tables` is a
network of the literature, whose layers a framework imports when it is asked for. A name with a
colon, ``module:function``, is a model of the reader's own.
"""

from __future__ import annotations

from collections.abc import Mapping
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

"""What the trials of a method search: the learning rate and one constant of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tuning import Values

CONSTANTS = {
    "kd": ("temperature", 1.0, 8.0),
    "kd-ls": ("temperature", 1.0, 8.0),
    "dkd": ("beta", 0.5, 8.0),
    "dist": ("temperature", 1.0, 8.0),
    "nkd": ("gamma", 0.5, 4.0),
    "ttm": ("weight", 1.0, 64.0),
    "wttm": ("weight", 1.0, 64.0),
    "rld": ("beta", 0.5, 8.0),
    "mcld": ("weight_sample", 0.05, 1.0),
    "mcld-ce": ("weight_sample", 0.05, 1.0),
}
"""Method → the one setting that is searched beside the rate, and its range."""


def search_space(
    text: str, known: Mapping[str, Any], lr: float, span: float = 8.0, constants: bool = True
) -> tuple[dict[str, tuple[float, float]], Values]:
    """Return what trials search, name → (lowest, highest), and the values of the first.

    Args:
        text: a method, ``METHOD`` or ``METHOD:KEY=VALUE,…``; what it names stays as it is.
        known: the method's settings, of which the first trial takes the constant.
        lr: of the first trial; the rates reach from ``lr / span`` to ``lr · span``.
        span: of the rates.
        constants: whether the method's constant is searched, too.
    """
    space, first = {"lr": (lr / span, lr * span)}, {"lr": lr}
    name, low, high = CONSTANTS.get(text.partition(":")[0], ("", 0.0, 0.0))
    if constants and name and f"{name}=" not in text:
        space[name], first[name] = (low, high), float(known[name])
    return space, first

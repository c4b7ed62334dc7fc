"""Derivatives by central differences of fourth order, for a gradient to agree with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def slope(function: Callable[[float], Any], at: float = 0.0, step: float = 1e-3) -> np.ndarray:
    """Return the derivative of a function of a number."""
    near, far = (float(function(at + k * step)) - float(function(at - k * step)) for k in (1, 2))
    return np.asarray((8 * near - far) / (12 * step))


def differences(function: Callable[[np.ndarray], Any], at: np.ndarray) -> np.ndarray:
    """Return the derivative of a function of an array by each of its entries."""
    gradient = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        unit = np.zeros_like(at)
        unit[place] = 1.0
        gradient[place] = slope(lambda k, unit=unit: function(at + k * unit))
    return gradient

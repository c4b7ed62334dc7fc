"""What sums of public terms need again and again."""

from __future__ import annotations

from dataclasses import fields, replace

from mcld_core import MCLDConfig
from mcld_core.arguments import is_number
from mcld_core.backends import Backend
from mcld_core.typing import Array, Scalar

LEAST = -1e30
"""Stands for the logarithm of 0: finite, so that times a probability of 0 it is 0."""


def weighing(config: MCLDConfig, **weights: Scalar) -> MCLDConfig:
    """Return the settings with the weights of these terms, and with 0 for all others."""
    names = [field.name for field in fields(config) if field.name.startswith("weight_")]
    return replace(config, **{name: weights.get(name[len("weight_") :], 0.0) for name in names})


def is_zero(weight: Scalar) -> bool:
    """Whether a weight is a number of Python that is 0, so that its term need not be computed."""
    return is_number(weight) and weight == 0


def log_of(ops: Backend, x: Array) -> Array:
    """Return the logarithm of x ≥ 0, `LEAST` where it is 0."""
    positive = x > 0
    return ops.where(positive, ops.log(ops.where(positive, x, 1.0)), LEAST)

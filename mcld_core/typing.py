"""Names for the annotations: arrays of any framework, with their shapes.

The axis words are the same everywhere: ``batch``, ``classes``, ``keys``, ``tokens``, ``time``,
``block``.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from jaxtyping import Bool, Float, Int, Num

Array: TypeAlias = Any
"""An array or tensor of NumPy, PyTorch, TensorFlow or JAX, or a list that NumPy can convert."""

Scalar: TypeAlias = Any
"""A Python number, or a zero-dimensional array (which may be traced)."""

Reduction: TypeAlias = Literal["mean", "sum", "none"]

Logits: TypeAlias = Float[Array, "batch classes"]
Labels: TypeAlias = Num[Array, "batch"] | Num[Array, "batch classes"]  # noqa: F821

__all__ = [
    "Array",
    "Bool",
    "Float",
    "Int",
    "Labels",
    "Logits",
    "Num",
    "Reduction",
    "Scalar",
]

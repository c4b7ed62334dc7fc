"""The warm-up of the category-wise term."""

from __future__ import annotations

from mcld_core.backends import Backend
from mcld_core.typing import Array, Scalar


def category_ramp(ops: Backend, progress: Scalar, warmup: Scalar, like: Array) -> Array:
    """Return ``clip(progress / warmup, 0, 1)``, and 1 where ``warmup`` is 0.

    Args:
        ops: the backend.
        progress: the part of the training that is done, 0 to 1.
        warmup: the part of the training that the ramp spans, 0 to 1.
        like: an array whose dtype and device the result takes.
    """
    progress, warmup = number(ops, progress, like), number(ops, warmup, like)
    ramp = ops.minimum(ops.maximum(progress / ops.where(warmup > 0, warmup, 1.0), 0.0), 1.0)
    return ops.where(warmup > 0, ramp, 1.0)


def number(ops: Backend, value: Scalar, like: Array) -> Array:
    """Convert a Python number or a zero-dimensional array to the dtype and device of ``like``."""
    return ops.astype(ops.asarray(value, like), ops.dtype(like))

"""The warm-up of the category-wise term."""

from __future__ import annotations

import numpy as np

from mcld_core.backends import Backend
from mcld_core.config import check_number, plain_number
from mcld_core.typing import Array, Scalar


def category_ramp(ops: Backend, progress: Scalar, warmup: Scalar, dtype: str, like: Array) -> Array:
    """Return ``clip(progress / warmup, 0, 1)``, and 1 where ``warmup`` is 0.

    Args:
        ops: the backend.
        progress: the part of the training that is done, 0 to 1.
        warmup: the part of the training that the ramp spans, 0 to 1.
        dtype: the dtype of the result.
        like: an array on the device of the result.
    """
    numbers = isinstance(progress, (int, float)) and isinstance(warmup, (int, float))
    if numbers:
        part = number(ops, progress / warmup if warmup > 0 else 1.0, dtype, like)
    else:
        progress, warmup = (number(ops, x, dtype, like) for x in (progress, warmup))
        part = progress / ops.where(warmup > 0, warmup, 1.0)
        part = ops.stop_gradient(ops.where(warmup > 0, part, 1.0))
    return ops.minimum(ops.maximum(part, 0.0), 1.0)


def check_progress(function: str, ops: Backend, progress: Scalar, like: Array) -> None:
    """Raise for a progress that is no finite number, where its value can be read for free.

    Raises:
        ValueError, TypeError: NaN or infinite; None, a text or a list.
    """
    progress = plain_number(progress)
    check_number(function, "progress", progress)
    if not isinstance(progress, (int, float)):
        value = ops.host_values(ops.asarray(progress, like))
        if value is not None and not np.isfinite(value).all():
            raise ValueError(f"{function}: progress needs a finite number; got {value}")


def number(ops: Backend, value: Scalar, dtype: str, like: Array) -> Array:
    """Convert a Python number or a zero-dimensional array to ``dtype`` on ``like``'s device."""
    return ops.astype(ops.asarray(value, like), dtype)

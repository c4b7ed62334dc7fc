"""The moving average of weights: what an EMA teacher is made of, on every backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcld_core.arguments import Arguments, Checks, is_number, wide_dtype
from mcld_core.typing import Scalar


def ema_update(average: Any, value: Any, decay: Scalar) -> Any:
    """Return the moving average of weights: ``decay · average + (1 − decay) · value``.

    The average of the student's weights over about the last ``1 / (1 − decay)`` steps makes a
    teacher that is steadier than the student and costs one addition a step. The function is pure:
    under JAX use it in the jitted step. ``EMATeacher`` of the PyTorch and Keras backends holds
    such a copy of a model.

    Leaves in half precision come out as float32, because in half precision a step of
    ``1 − decay`` is lost in rounding and the average stands still. Keep the float32 leaves from
    step to step, and cast where the teacher is called. ``ema_update(params, params, 0.0)`` is a
    start with the final dtypes, which a ``scan`` needs.

    Args:
        average: an array, or a dict, list or tuple of them, nested at will (a JAX parameter tree,
            a ``state_dict``). A leaf that does not hold floats is replaced by that of ``value``; a
            None stays.
        value: the student's, of the same structure.
        decay: 0 … 1, a number or a traced array; `ema_decay` warms it up.

    Returns:
        The same structure, floating leaves as float32 (float64 stays), without a gradient.

    Raises:
        ValueError, TypeError: structures that differ, or a decay that is not one number in 0 … 1.

    Example:
        >>> import numpy as np
        >>> ema_update({"w": np.array([1.0])}, {"w": np.array([2.0])}, 0.75)
        {'w': array([1.25])}

    References:
        A. Tarvainen, H. Valpola, "Mean teachers are better role models", NeurIPS 2017.
    """
    Checks("ema_update").number("decay", decay, minimum=0.0, maximum=1.0)
    return _average(average, value, decay)


def _average(average: Any, value: Any, decay: Scalar) -> Any:
    """Return `ema_update` of a structure or one of its leaves."""
    if isinstance(average, Mapping):
        if not isinstance(value, Mapping) or set(average) != set(value):
            raise _different(average, value)
        updated = {key: _average(average[key], value[key], decay) for key in average}
        return updated if type(average) is dict else type(average)(updated)  # type: ignore[call-arg]
    if isinstance(average, (list, tuple)):
        if type(average) is not type(value) or len(average) != len(value):
            raise _different(average, value)
        entries = [_average(a, b, decay) for a, b in zip(average, value, strict=True)]
        return type(average)(*entries) if hasattr(average, "_fields") else type(average)(entries)
    if average is None or value is None:
        if average is not value:
            raise _different(average, value)
        return None
    if isinstance(value, (Mapping, str)) or isinstance(average, str):
        raise _different(average, value)
    arguments = Arguments("ema_update", average, value)
    ops = arguments.ops
    average, value = ops.asarray(average), ops.stop_gradient(ops.asarray(value, average))
    if tuple(average.shape) != tuple(value.shape):
        raise _different(average, value)
    dtype = ops.dtype(average)
    if "float" not in dtype:
        return value
    dtype = wide_dtype(dtype)
    if not is_number(decay):
        decay = arguments.scalar("decay", decay, average, dtype, maximum=1.0)
    average, value = ops.astype(average, dtype), ops.astype(value, dtype)
    return ops.stop_gradient(decay * average + (1.0 - decay) * value)


def ema_decay(step: Scalar, decay: float = 0.999) -> Any:
    """Return ``min(decay, (1 + step) / (10 + step))``: the first weights are forgotten soon.

    Args:
        step: updates done so far, ≥ 0: a number, or an array without axes of any int or float
            dtype (traced, or an optimizer's count of its steps).
        decay: the final decay, 0 … 1.

    Returns:
        A number of Python, or a float32 array (float64 for a float64 step) where the step is one.

    Raises:
        ValueError, TypeError: a step that is not one number ≥ 0, a decay outside 0 … 1.

    Example:
        >>> [round(ema_decay(step), 3) for step in (0, 90, 10**6)]
        [0.1, 0.91, 0.999]
    """
    arguments = Arguments("ema_decay", step)
    arguments.number("step", step, minimum=0.0)
    arguments.number("decay", decay, minimum=0.0, maximum=1.0)
    if is_number(step):
        return min(decay, (1.0 + step) / (10.0 + step))
    ops = arguments.ops
    given = ops.asarray(step)
    step = arguments.scalar("step", given, given, wide_dtype(ops.dtype(given)))
    return ops.minimum((1.0 + step) / (10.0 + step), decay)


def _different(average: Any, value: Any) -> ValueError:
    return ValueError(
        "ema_update: average and value need the same structure and shapes; got "
        f"{_describe(average)} and {_describe(value)}"
    )


def _describe(x: Any) -> str:
    if x is None:
        return "None"
    if isinstance(x, Mapping):
        return f"a dict of {sorted(map(str, x))}"
    if isinstance(x, (list, tuple)):
        return f"a {type(x).__name__} of {len(x)}"
    return f"shape {tuple(getattr(x, 'shape', ()))}"

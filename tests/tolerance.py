"""The one table of tolerances, with its reasons.

With M = max(1, max|S|) of the case:
values agree if |a − b| ≤ rtol·(|b| + M), gradients if |a − b| ≤ rtol·M·max|b|.

- An exponent S carries an absolute error of some eps·M, and so does the log-sum-exp of it:
  this is why values have M beside |b|. A gradient is a sum of softmax weights, each with that
  relative error, hence M times the largest entry (a small entry is the difference of large ones).
- Measured over the losses and backends the errors stay a factor of 10 and more below the table.
- Half precision is computed in float32, so values keep float32's line; the gradient is rounded
  once to the input's dtype: half a unit in the last place of each entry. The cases of this suite
  are multiples of 1/16 with |x| ≤ 8, exact in every dtype, so the oracle needs no rounded input.
- Central differences (five points, step 1e-3, float64) carry about 1e-9 of their own where
  τ = 0.1 makes the fifth derivative large.
"""

from __future__ import annotations

from typing import Any

import numpy as np

RTOL = {"float64": 1e-12, "float32": 1e-5}
VALUE_RTOL = RTOL | {"float16": RTOL["float32"], "bfloat16": RTOL["float32"]}
GRADIENT_RTOL = RTOL | {"float16": 2.0**-10, "bfloat16": 2.0**-8}
CENTRAL_DIFFERENCE_RTOL = 1e-7


def assert_value(actual: Any, expected: Any, dtype: str = "float64", scale: float = 1.0) -> None:
    """Assert that losses agree; `expected` is the reference."""
    actual, expected = _pair(actual, expected)
    _assert_within(actual, expected, VALUE_RTOL[dtype] * (np.abs(expected) + scale))


def assert_gradient(
    actual: Any, expected: Any, dtype: str = "float64", scale: float = 1.0, floor: float = 0.0
) -> None:
    """Assert that gradients agree; `expected` is the reference.

    `floor` is the size of what cancels where a gradient may be 0 (softmax weights: 1).
    """
    actual, expected = _pair(actual, expected)
    bound = GRADIENT_RTOL[dtype] * scale * max(_largest(expected), floor)
    _assert_within(actual, expected, bound)


def assert_central(actual: Any, expected: Any, scale: float = 1.0) -> None:
    """Assert that a float64 gradient agrees with central differences."""
    actual, expected = _pair(actual, expected)
    bound = CENTRAL_DIFFERENCE_RTOL * scale * max(_largest(expected), 1e-2)
    _assert_within(actual, expected, bound)


def assert_zero(actual: Any, dtype: str = "float64", scale: float = 1.0) -> None:
    """Assert that every entry is zero up to rounding of terms as large as `scale`."""
    actual = np.asarray(actual, np.float64)
    _assert_within(actual, np.zeros_like(actual), VALUE_RTOL[dtype] * max(1.0, scale))


def assert_finite(*arrays: Any) -> None:
    """Assert that no entry is NaN or infinite."""
    for array in arrays:
        values = np.asarray(array, np.float64)
        assert np.isfinite(values).all(), f"not finite: {values}"


def _pair(actual: Any, expected: Any) -> tuple[np.ndarray, np.ndarray]:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert_finite(expected)
    return actual, expected


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))


def _assert_within(actual: np.ndarray, expected: np.ndarray, bound: Any) -> None:
    error = np.abs(actual - expected)
    within = error <= bound  # False for NaN
    assert within.all(), (
        f"{np.count_nonzero(~within)} of {within.size} entries differ; "
        f"largest error {np.nanmax(error, initial=0.0):.3g}, "
        f"allowed {np.max(bound, initial=0.0):.3g}\nactual   {actual}\nexpected {expected}"
    )

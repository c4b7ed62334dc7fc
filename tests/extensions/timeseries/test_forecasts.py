"""Forecasts as distributions over bins, in every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcld_core import MCLDConfig
from mcld_core.extensions.timeseries import (
    bin_labels,
    forecast_bins,
    forecast_to_logits,
    window_mcld_loss,
)
from tests.differences import slope
from tests.extensions import oracles
from tests.frameworks import Framework

EDGES = np.asarray([-1.0, -0.25, 0.5, 2.0])


@pytest.mark.parametrize("scale", [None, 0.3, "rows"])
def test_forecast_equals_the_mass_of_a_logistic(backend: Framework, scale: Any) -> None:
    rng = np.random.default_rng(30)
    forecast = rng.normal(scale=2.0, size=(2, 3))
    widths = rng.uniform(0.2, 1.0, size=(2, 3))
    given_scale = backend.array(widths, "float64") if scale == "rows" else scale
    found = backend.to_numpy(
        forecast_to_logits(backend.array(forecast, "float64"), EDGES, given_scale)
    )
    assert found.shape == (2, 3, 5)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1.0, rtol=1e-12)
    for place in np.ndindex(2, 3):
        width = {"rows": float(widths[place]), None: 0.375}.get(scale, scale)
        reference = oracles.logistic_log_mass(float(forecast[place]), width, EDGES.tolist())
        np.testing.assert_allclose(found[place], reference, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_forecast_far_off_still_has_a_gradient(differentiable: Framework, dtype: str) -> None:
    """And a learned width, too: no log of 0, no NaN from the open ends, narrow bins included."""
    edges = np.asarray([0.0, 1e-3, 1.0])
    forecast = np.asarray([[1e4, -1e4, 0.0005]])
    target = np.asarray([[0, 3, 1]])

    def loss(x: Any) -> Any:
        return window_mcld_loss(
            forecast_to_logits(x, edges, 0.5 + 0.0 * x),
            forecast_to_logits(differentiable.array(np.zeros((1, 3)), dtype), edges, 0.5),
            step_labels=differentiable.array(target),
        )

    value, gradient = differentiable.value_and_grad(differentiable.as_one(loss), forecast, dtype)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert gradient[0, 0] > 0.1
    assert gradient[0, 1] < -0.1


@pytest.mark.parametrize("scale", [3e-5, 0.4])
def test_a_learned_scale_has_its_gradient(differentiable: Framework, scale: float) -> None:
    """In float32 too, however narrow: the open ends have no edge that could overflow."""
    edges, forecast = np.asarray([0.0, 1e-4, 1.0]), np.asarray([[5e-5, 1e-4, 0.5]])
    weights = np.random.default_rng(33).normal(size=(1, 3, 4))

    def loss(scale: Any) -> Any:
        dtype = differentiable.dtype(scale)
        rows = forecast_to_logits(differentiable.array(forecast, dtype), edges, scale)
        total = rows * differentiable.array(weights, dtype)
        for _ in range(3):
            total = sum(total[i] for i in range(total.shape[0]))
        return total

    loss = differentiable.as_one(loss)
    _, gradient = differentiable.value_and_grad(loss, np.asarray(scale), "float32")
    assert np.isfinite(gradient)
    _, gradient = differentiable.value_and_grad(loss, np.asarray(scale))
    expected = slope(
        lambda x: (forecast_to_logits(forecast, edges, x) * weights).sum(), scale, 1e-4 * scale
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_a_scale_that_is_not_positive_is_refused(backend: Framework) -> None:
    forecast = backend.array(np.zeros((1, 2)), "float64")
    for scale in (0, -1.0, backend.array(np.asarray([[1.0, -1.0]]), "float64")):
        with pytest.raises(ValueError, match="scale needs numbers > 0; got"):
            forecast_to_logits(forecast, EDGES, scale)


def test_forecast_distillation_pulls_towards_the_teacher(differentiable: Framework) -> None:
    teacher = np.asarray([[0.4, 1.2, -0.8]])
    edges = np.linspace(-2, 2, 9)
    labels = differentiable.array(bin_labels(teacher, edges))

    def loss(x: Any) -> Any:
        return window_mcld_loss(
            forecast_to_logits(x, edges),
            forecast_to_logits(differentiable.array(teacher, "float64"), edges),
            step_labels=labels,
            config=MCLDConfig(weight_instance=0.0, weight_category=0.0),
            step_contrast=0.0,
        )

    loss = differentiable.as_one(loss)
    _, gradient = differentiable.value_and_grad(loss, teacher + np.asarray([[0.5, -0.5, 0.5]]))
    assert (np.sign(gradient) == [[1, -1, 1]]).all()
    value, gradient = differentiable.value_and_grad(loss, teacher)
    assert value == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-12)


def test_bins_and_their_labels(backend: Framework) -> None:
    targets = np.asarray([[-3.0, 0.0, 0.6], [9.0, np.nan, -0.25]])
    found = backend.to_numpy(bin_labels(backend.array(targets, "float64"), EDGES))
    np.testing.assert_array_equal(found, [[0, 2, 3], [4, -100, 1]])


@pytest.mark.parametrize("dtype", ["int32", "int64", "float16"])
def test_targets_of_any_dtype_are_compared_with_the_edges_as_they_are(
    backend: Framework, dtype: str
) -> None:
    found = bin_labels(backend.array(np.asarray([[0, 1, -1]], dtype)), [-0.5, 0.5001])
    np.testing.assert_array_equal(backend.to_numpy(found), [[1, 2, 0]])
    np.testing.assert_array_equal(bin_labels([[0, 1, -1]], [-0.5, 0.5]), [[1, 2, 0]])


def test_bins_hold_equal_shares() -> None:
    values = np.random.default_rng(31).exponential(size=(40, 10))
    values[0, 0] = np.nan
    labels = bin_labels(values, forecast_bins(values, 8))
    counts = np.bincount(labels[labels >= 0], minlength=8)
    assert counts.min() >= 0.95 * counts.max()


@given(
    values=st.lists(st.integers(0, 3), min_size=2, max_size=30).filter(lambda x: len(set(x)) > 1),
    bins=st.integers(2, 8),
)
def test_no_quantile_bin_is_empty(values: list[int], bins: int) -> None:
    """However often targets repeat."""
    for targets in (values, [0, 0, 0, 1], [0, 1, 1, 1, 1]):
        edges = forecast_bins(targets, bins)
        counts = np.bincount(bin_labels(targets, edges), minlength=len(edges) + 1)
        assert 1 <= len(edges) < bins
        assert len(counts) == len(edges) + 1
        assert (counts > 0).all(), counts


def test_errors_say_what_came() -> None:
    with pytest.raises(ValueError, match="bins needs an int ≥ 2"):
        forecast_bins([1.0, 2.0], 1)
    with pytest.raises(ValueError, match="without a spread"):
        forecast_bins([1.0, 1.0])
    with pytest.raises(ValueError, match=r"edges need shape \(bins - 1,\), increasing"):
        forecast_to_logits(np.zeros((1, 1)), [1.0, 0.0])
    with pytest.raises(ValueError, match="scale is needed where edges has one entry; got None"):
        forecast_to_logits(np.zeros((1, 1)), [1.0])

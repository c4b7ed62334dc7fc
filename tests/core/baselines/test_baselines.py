"""KD and DKD against their definitions, and what ties them to the sample-wise term."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import dkd_loss, kd_loss, sample_wise
from tests import oracles
from tests.cases import make_case, value, value_and_grad
from tests.frameworks import Framework
from tests.tolerance import assert_finite, assert_gradient, assert_value, assert_zero

KD = [{}, {"temperature": 1.0}, {"temperature": 0.5}]
DKD = [{}, {"alpha": 0.0}, {"beta": 0.0, "temperature": 1.0}, {"alpha": 2.0, "beta": 3.0}]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("options", KD, ids=str)
def test_kd_equals_its_definition(
    backend: Framework, options: dict[str, Any], reduction: str, dtype: str
) -> None:
    case = make_case(71, weights=True, where=True)
    found = value(backend, kd_loss, case, dtype, reduction=reduction, **options)
    assert_value(found, oracles.kd_loss(case, reduction, **options), dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("labels", ["int", "soft"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("options", DKD, ids=str)
def test_dkd_equals_its_definition(
    backend: Framework, options: dict[str, Any], reduction: str, labels: str, dtype: str
) -> None:
    case = make_case(72, labels=labels, weights=True, where=True)
    found = value(backend, dkd_loss, case, dtype, reduction=reduction, **options)
    assert_value(found, oracles.dkd_loss(case, reduction, **options), dtype, scale=8.0)


def test_dkd_is_the_sample_wise_term(backend: Framework) -> None:
    case = make_case(73)
    found = value(backend, dkd_loss, case, beta=1.0, reduction="none")
    assert_value(found, value(backend, sample_wise, case, reduction="none"))


def test_kd_is_the_unmasked_sample_wise_term(backend: Framework) -> None:
    case = make_case(74)
    settings = {"sample_target_mask": False}
    expected = value(backend, sample_wise, case, settings=settings, reduction="none")
    assert_value(value(backend, kd_loss, case, reduction="none"), expected)


def test_reductions_differ(backend: Framework) -> None:
    """A known defect of a peer: all three reductions gave the sum."""
    case = make_case(75)
    for loss in (kd_loss, dkd_loss):
        rows = value(backend, loss, case, reduction="none")
        assert rows.shape == (5,)
        assert_value(value(backend, loss, case, reduction="sum"), rows.sum(), scale=8.0)
        assert_value(value(backend, loss, case, reduction="mean"), rows.mean(), scale=8.0)


def test_ignored_labels_drop_their_rows(backend: Framework) -> None:
    case = make_case(76)
    ignored = case.but(labels=np.array([0, -100, 1, -100, 2]))
    expected = case.but(labels=np.array([0, 0, 1, 0, 2]), where=ignored.labels >= 0)
    found = value(backend, dkd_loss, ignored)
    assert_value(found, oracles.dkd_loss(expected))


def test_gradients_of_the_baselines(differentiable: Framework) -> None:
    """∂KD/∂s = T (softmax(s/T) − softmax(t/T)), per row over the batch."""
    case = make_case(77)
    _, gradient = value_and_grad(differentiable, kd_loss, case, temperature=2.0)

    def softened(rows: np.ndarray) -> np.ndarray:
        weights = np.exp(rows / 2.0)
        return weights / weights.sum(-1, keepdims=True)

    expected = 2.0 * (softened(case.student) - softened(case.teacher)) / len(case.student)
    assert_gradient(gradient, expected)


@pytest.mark.parametrize("loss", [kd_loss, dkd_loss])
def test_zero_at_the_teacher(differentiable: Framework, loss: Any) -> None:
    case = make_case(78)
    equal = case.but(student=case.teacher + 2.0)
    found, gradient = value_and_grad(differentiable, loss, equal)
    assert_zero(found, scale=8.0)
    assert_zero(gradient, scale=8.0)


@pytest.mark.parametrize("loss", [kd_loss, dkd_loss])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_extreme_logits_are_finite(differentiable: Framework, loss: Any, dtype: str) -> None:
    """A known defect of a peer: DKD's gradient was not finite in float16."""
    sign = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], size=(2, 5, 4))
    case = make_case(79).but(student=1e4 * sign[0], teacher=1e4 * sign[1])
    found, gradient = value_and_grad(differentiable, loss, case, dtype)
    assert_finite(found, gradient)
    assert found > 1.0


@pytest.mark.parametrize("loss", [kd_loss, dkd_loss])
def test_all_rows_dropped(differentiable: Framework, loss: Any) -> None:
    case = make_case(80).but(where=np.zeros(5, bool))
    found, gradient = value_and_grad(differentiable, loss, case)
    assert found == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((5, 4)))

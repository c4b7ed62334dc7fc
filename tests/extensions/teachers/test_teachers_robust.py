"""Robust contrast, in every backend."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from mcld_core import instance_wise
from mcld_core.extensions.teachers import bounded_loss, outlier_weights
from tests import oracles
from tests.cases import logits, make_case, soft_labels
from tests.differences import differences
from tests.extensions.teachers import teacher_oracles
from tests.frameworks import Framework
from tests.tolerance import assert_central, assert_value

LOSSES = np.array([0.0, 1e-9, 1e-3, 0.1, 0.25, 1.0, 2.0, 9.0, 700.0])
QS = [0.0, 1e-12, 1e-6, 0.01, 0.2499, 0.2501, 0.7, 1.0, 3.0]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bounded_equals_its_formula_is_bounded_and_is_the_loss_at_q_0(
    backend: Framework, dtype: str
) -> None:
    previous = np.full(len(LOSSES), np.inf)
    for q in QS:
        found = backend.to_numpy(bounded_loss(backend.array(LOSSES, dtype), q, reduction="none"))
        # relative, also where 1 − exp(−x) cancels
        expected = teacher_oracles.bounded(LOSSES, q)
        assert (
            np.abs(found - expected) <= (1e-13 if dtype == "float64" else 1e-6) * expected
        ).all()
        assert (found <= LOSSES.astype(dtype)).all()
        assert (found * q <= 1 + 1e-6).all()
        assert (np.diff(found) >= 0).all()
        assert (found <= previous * (1 + 1e-6)).all()
        previous = found
    traced = bounded_loss(backend.array(LOSSES, dtype), backend.array(np.asarray(0.7), dtype))
    assert_value(backend.to_numpy(traced), teacher_oracles.bounded(LOSSES, 0.7).mean(), dtype)


def test_an_infinite_loss_is_bounded_and_a_nan_is_shown(backend: Framework) -> None:
    def rows(*values: float) -> Any:
        return backend.array(np.array(values), "float64")

    for q in (0.5, backend.array(np.asarray(0.5), "float64")):
        found = backend.to_numpy(bounded_loss(rows(0.0, np.inf), q, reduction="none"))
        np.testing.assert_array_equal(found, [0.0, 2.0])
    for q in (0.0, backend.array(np.asarray(0.0), "float64")):
        found = backend.to_numpy(bounded_loss(rows(1.0, np.inf), q, reduction="none"))
        np.testing.assert_array_equal(found, [1.0, np.inf])
    assert np.isnan(backend.to_numpy(bounded_loss(rows(1.0, np.nan, 2.0), 0.5)))


def test_a_dropped_or_infinite_row_spoils_no_gradient(differentiable: Framework) -> None:
    losses, where = np.array([1.0, np.nan, 2.0, np.inf]), np.array([True, False, True, True])
    _, gradient = differentiable.value_and_grad(
        lambda x: bounded_loss(x, 0.4, where=differentiable.array(where), reduction="sum"), losses
    )
    assert_value(gradient, np.array([np.exp(-0.4), 0, np.exp(-0.8), 0]))


def test_half_precision_rows_are_computed_in_float32(backend: Framework) -> None:
    losses = np.linspace(0.0, 8.0, 33)  # exact in half precision
    for dtype in set(backend.dtypes) - {"float32", "float64"}:
        weight = backend.array(np.arange(33) / 4, dtype)
        found = bounded_loss(backend.array(losses, dtype), 0.25, sample_weight=weight)
        expected = bounded_loss(
            backend.array(losses, "float32"),
            0.25,
            sample_weight=backend.array(np.arange(33) / 4, "float32"),
        )
        assert backend.dtype(found) == "float32"
        np.testing.assert_array_equal(backend.to_numpy(found), backend.to_numpy(expected))


@pytest.mark.parametrize("q", [0.0, 1e-6, 0.3, 2.0])
def test_bounded_pulls_by_exp_of_minus_q_l(differentiable: Framework, q: float) -> None:
    losses = LOSSES[1:8]  # 0.25 / q lies among them
    _, gradient = differentiable.value_and_grad(
        lambda x: bounded_loss(x, q, reduction="sum"), losses
    )
    assert_value(gradient, np.exp(-q * losses))


def test_a_bounded_term_has_the_gradient_of_its_definition(differentiable: Framework) -> None:
    backend = differentiable
    case = make_case(61, batch=6, weights=True)
    where = np.arange(6) != 2
    q = 0.4

    def on_student(student: Any) -> Any:
        rows = instance_wise(
            student,
            backend.array(case.teacher, "float64"),
            backend.array(case.labels),
            reduction="none",
        )
        weight = backend.array(case.sample_weight, "float64")
        return bounded_loss(rows, q, sample_weight=weight, where=backend.array(where))

    def reference(student: np.ndarray) -> float:
        rows = oracles.instance_wise(case.but(student=student, sample_weight=None), "none")
        weight = np.where(where, case.sample_weight, 0.0)
        return float((teacher_oracles.bounded(rows, q) * weight).sum() / weight.sum())

    scale = oracles.scale(case)
    value, gradient = backend.value_and_grad(on_student, case.student)
    assert_value(value, reference(case.student), scale=scale)
    assert_central(gradient, differences(reference, case.student), scale)


# ---- outliers ----

OUTLIER_RNG = np.random.default_rng(8)
TEACHER, LABELS = logits(OUTLIER_RNG, 10, 4), np.array([0, 1, 0, 1, 0, -100, 1, 2, 0, 1])
WHERE = np.arange(10) != 3
SOFT = soft_labels(OUTLIER_RNG, 10, 4)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["int", "soft"])
@pytest.mark.parametrize("cutoff", [0.3, 1.0])
def test_outlier_weights_equal_their_definition(
    backend: Framework, labels: np.ndarray, cutoff: float
) -> None:
    found = outlier_weights(
        backend.array(TEACHER, "float64"),
        backend.array(labels, "float64"),
        cutoff=cutoff,
        where=backend.array(WHERE),
    )
    expected = teacher_oracles.outliers(TEACHER, labels, WHERE, cutoff)
    assert_value(backend.to_numpy(found), expected)


def test_outlier_weights_are_one_for_typical_rows_and_fall_with_the_distance(
    backend: Framework,
) -> None:
    labels, weights = backend.array(np.zeros(6, int)), []
    for distance in (0.0, 2.0, 4.0, 6.0, 12.0):
        teacher = np.tile([4.0, 0.0, 0.0], (6, 1))
        teacher[0] += [-distance, distance, 0.0]
        weights.append(backend.to_numpy(outlier_weights(backend.array(teacher, "float64"), labels)))
    for typical in weights:
        assert (typical[1:] == 1).all()
    first = [w[0] for w in weights]
    assert first[0] == 1.0
    assert first[-1] < 0.1
    assert all(a >= b for a, b in itertools.pairwise(first))
    assert all(0 <= w <= 1 for w in first)

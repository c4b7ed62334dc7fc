"""Robust contrast and self-distillation, in every backend."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, instance_wise, mcld_loss
from mcld_core.extensions.teachers import (
    bounded_loss,
    deep_supervision_loss,
    ensemble,
    generations,
    outlier_weights,
    trimmed_loss,
)
from tests import oracles
from tests.cases import logits, make_case, soft_labels
from tests.core.formulas.test_gradients import differences
from tests.extensions.teachers import teacher_oracles
from tests.frameworks import Framework
from tests.tolerance import assert_central, assert_gradient, assert_value

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


def test_an_infinite_loss_is_bounded_or_trimmed_and_a_nan_is_shown(backend: Framework) -> None:
    def rows(*values: float) -> Any:
        return backend.array(np.array(values), "float64")

    for q in (0.5, backend.array(np.asarray(0.5), "float64")):
        found = backend.to_numpy(bounded_loss(rows(0.0, np.inf), q, reduction="none"))
        np.testing.assert_array_equal(found, [0.0, 2.0])
    for q in (0.0, backend.array(np.asarray(0.0), "float64")):
        found = backend.to_numpy(bounded_loss(rows(1.0, np.inf), q, reduction="none"))
        np.testing.assert_array_equal(found, [1.0, np.inf])
    where = backend.array(np.array([True, True, False]))
    for third in (3.0, np.inf, np.nan):
        kept = trimmed_loss(rows(1.0, np.inf, third), 0.0, where=where, reduction="none")
        np.testing.assert_array_equal(backend.to_numpy(kept), [1.0, np.inf, 0.0])
        assert backend.to_numpy(trimmed_loss(rows(1.0, np.inf, third), 0.5, where=where)) == 1.0
    for loss in (bounded_loss, trimmed_loss):
        assert np.isnan(backend.to_numpy(loss(rows(1.0, np.nan, 2.0), 0.5)))


@pytest.mark.parametrize("loss", [bounded_loss, trimmed_loss])
def test_a_dropped_or_infinite_row_spoils_no_gradient(differentiable: Framework, loss: Any) -> None:
    losses, where = np.array([1.0, np.nan, 2.0, np.inf]), np.array([True, False, True, True])
    _, gradient = differentiable.value_and_grad(
        lambda x: loss(x, 0.4, where=differentiable.array(where), reduction="sum"), losses
    )
    expected = [1, 0, 1, 0] if loss is trimmed_loss else [np.exp(-0.4), 0, np.exp(-0.8), 0]
    assert_value(gradient, np.array(expected))


@pytest.mark.parametrize("loss", [bounded_loss, trimmed_loss])
def test_half_precision_rows_are_computed_in_float32(backend: Framework, loss: Any) -> None:
    losses = np.linspace(0.0, 8.0, 33)  # exact in half precision
    for dtype in set(backend.dtypes) - {"float32", "float64"}:
        weight = backend.array(np.arange(33) / 4, dtype)
        found = loss(backend.array(losses, dtype), 0.25, sample_weight=weight)
        expected = loss(
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


@pytest.mark.parametrize("loss", [bounded_loss, trimmed_loss])
def test_a_bounded_or_trimmed_term_has_the_gradient_of_its_definition(
    differentiable: Framework, loss: Any
) -> None:
    backend = differentiable
    case = make_case(61, batch=6, weights=True)
    where = np.arange(6) != 2
    strength = 0.4  # q, or the fraction: of five kept rows two

    def on_student(student: Any) -> Any:
        rows = instance_wise(
            student,
            backend.array(case.teacher, "float64"),
            backend.array(case.labels),
            reduction="none",
        )
        weight = backend.array(case.sample_weight, "float64")
        return loss(rows, strength, sample_weight=weight, where=backend.array(where))

    def reference(student: np.ndarray) -> float:
        rows = oracles.instance_wise(case.but(student=student, sample_weight=None), "none")
        if loss is trimmed_loss:
            return teacher_oracles.trimmed(rows, where, case.sample_weight, strength)
        weight = np.where(where, case.sample_weight, 0.0)
        return float((teacher_oracles.bounded(rows, strength) * weight).sum() / weight.sum())

    scale = oracles.scale(case)
    value, gradient = backend.value_and_grad(on_student, case.student)
    assert_value(value, reference(case.student), scale=scale)
    assert_central(gradient, differences(reference, case.student), scale)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 0.99, 1.0])
def test_trimmed_leaves_out_the_highest_rows(backend: Framework, fraction: float) -> None:
    rng = np.random.default_rng(5)
    rows, weights, where = rng.random(10), rng.integers(1, 5, 10) / 4, np.arange(10) % 4 != 1
    rows[1] = np.nan  # a dropped row
    expected = teacher_oracles.trimmed(rows, where, weights, fraction)
    for given in (fraction, backend.array(np.asarray(fraction), "float64")):
        found = trimmed_loss(
            backend.array(rows, "float64"),
            given,
            sample_weight=backend.array(weights, "float64"),
            where=backend.array(where),
        )
        assert_value(backend.to_numpy(found), expected)


def test_a_row_that_wants_to_stay_out_has_no_gradient(differentiable: Framework) -> None:
    losses = np.array([1.0, 9.0, 2.0, 3.0])
    _, gradient = differentiable.value_and_grad(lambda x: trimmed_loss(x, 0.25), losses)
    assert_value(gradient, np.array([1, 0, 1, 1]) / 3)


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


# ---- self-distillation ----


def test_each_generation_has_the_one_before_as_teacher() -> None:
    seen: list[tuple[str | None, int]] = []

    def train(teacher: str | None, generation: int) -> str:
        seen.append((teacher, generation))
        return f"student {generation}"

    assert list(generations(train, 3)) == ["student 0", "student 1", "student 2"]
    assert seen == [(None, 0), ("student 0", 1), ("student 1", 2)]
    assert list(generations(lambda teacher, _: teacher, 1, "given")) == ["given"]


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_heads_learn_from_the_last_and_the_last_from_them(
    differentiable: Framework, reduction: str
) -> None:
    backend, config = differentiable, MCLDConfig(weight_ce=1.0)
    rng = np.random.default_rng(3)
    heads = [backend.array(logits(rng, 5, 4), "float64") for _ in range(3)]
    labels = backend.array(np.array([0, 1, 2, 1, 0]))
    found = deep_supervision_loss(
        heads, labels, weight_last=2.0, weight_heads=0.5, reduction=reduction
    )

    def distil(student: Any, teacher: Any) -> np.ndarray:
        loss = mcld_loss(student, teacher, labels, config=config, reduction=reduction)
        return backend.to_numpy(loss)

    expected = 2.0 * distil(heads[2], ensemble(heads[:2]))
    expected = expected + 0.25 * (distil(heads[0], heads[2]) + distil(heads[1], heads[2]))
    assert_value(backend.to_numpy(found), expected, scale=32.0)


def test_no_gradient_passes_through_a_head_as_teacher(differentiable: Framework) -> None:
    backend = differentiable
    rng = np.random.default_rng(4)
    first, last = logits(rng, 5, 4), logits(rng, 5, 4)
    labels = backend.array(np.array([0, 1, 2, 1, 0]))
    fixed = backend.array(first, "float64")
    _, gradient = backend.value_and_grad(
        lambda x: deep_supervision_loss([fixed, x], labels, weight_last=0) + 0.0 * x[0, 0], last
    )
    assert not gradient.any()
    _, gradient = backend.value_and_grad(
        lambda x: deep_supervision_loss([x, x], labels, weight_heads=0.0), last
    )
    _, plain = backend.value_and_grad(
        lambda x: mcld_loss(
            x, backend.array(last, "float64"), labels, config=MCLDConfig(weight_ce=1.0)
        ),
        last,
    )
    assert_gradient(gradient, plain, scale=8.0)


def test_errors_say_what_came_and_what_to_do(backend: Framework) -> None:
    rows, matrix = backend.array(LOSSES, "float64"), backend.array(TEACHER, "float64")
    labels = backend.array(np.zeros(10, int))
    negative = backend.array(np.where(np.arange(9) == 2, -0.5, 1.0), "float64")
    for call, text in [
        (lambda: bounded_loss(rows, 1.0, sample_weight=negative), "numbers ≥ 0; got -0.5 in row 2"),
        (lambda: trimmed_loss(rows, 0.5, sample_weight=negative), "numbers ≥ 0; got -0.5 in row 2"),
        (
            lambda: bounded_loss(rows, rows),
            "q needs one number; got shape (9,)",
        ),
        (lambda: bounded_loss(rows, -1.0), "q needs a finite number ≥ 0; got -1.0"),
        (lambda: bounded_loss(matrix, 1.0), "a loss with reduction='none'; got shape (10, 4)"),
        (lambda: bounded_loss(rows, 1.0, reduction="median"), "got 'median'"),
        (lambda: trimmed_loss(rows, 1.5), "fraction needs a finite number in 0 … 1; got 1.5"),
        (
            lambda: outlier_weights(matrix, labels, cutoff=0.0),
            "needs a finite number > 0 and ≤ 1; got 0.0",
        ),
        (lambda: deep_supervision_loss([matrix], labels), "heads needs two or more"),
        (lambda: list(generations(lambda t, g: t, 0)), "count needs an int ≥ 1; got 0"),
    ]:
        with pytest.raises(ValueError, match=re.escape(text)):
            call()

"""Each baseline against its definition, its gradient against differences, and its edges."""

from __future__ import annotations

from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import mcld_core
from mcld_core import dist_loss, dkd_loss, kd_loss, nkd_loss, rld_loss
from tests import oracles
from tests.cases import make_case, value, value_and_grad
from tests.differences import differences
from tests.frameworks import Framework
from tests.oracles import Case
from tests.tolerance import assert_finite, assert_gradient, assert_value, assert_zero

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("kd_loss", {}),
    ("kd_loss", {"temperature": 0.5}),
    ("dkd_loss", {}),
    ("dkd_loss", {"alpha": 0.0}),
    ("dkd_loss", {"alpha": 2.0, "beta": 3.0, "temperature": 1.0}),
    ("kd_loss", {"standardize": True, "temperature": 2.0}),
    ("kd_loss", {"divergence": "reverse"}),
    ("kd_loss", {"divergence": "jsd", "temperature": 1.5}),
    ("kd_loss", {"divergence": "jsd", "mix": 0.2, "standardize": True}),
    ("dist_loss", {}),
    ("dist_loss", {"beta": 0.5, "gamma": 2.0, "temperature": 4.0}),
    ("nkd_loss", {}),
    ("nkd_loss", {"gamma": 0.5, "temperature": 2.0}),
    ("ttm_loss", {}),
    ("ttm_loss", {"gamma": 0.5, "weighted": False}),
    ("rld_loss", {}),
    ("rld_loss", {"alpha": 2.0, "beta": 1.0, "temperature": 2.0, "alpha_temperature": 3.0}),
]
LABELLED = ("dkd_loss", "nkd_loss", "rld_loss")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_values_equal_the_definition(
    backend: Framework, name: str, options: dict[str, Any], reduction: str, dtype: str
) -> None:
    case = make_case(221, batch=7, weights=True, where=True)
    loss, oracle = getattr(mcld_core, name), getattr(oracles, name)
    found = value(backend, loss, case, dtype, reduction=reduction, **options)
    assert_value(found, oracle(case, reduction, **options), dtype, scale=40.0)


@pytest.mark.parametrize("labels", ["soft", "none"])
@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_each_kind(backend: Framework, name: str, labels: str) -> None:
    case = make_case(222, labels=labels)
    if labels == "none":
        case = case.but(labels=None)
        expected = getattr(oracles, name)(case.but(labels=case.teacher.argmax(1)), "none")
    else:
        expected = getattr(oracles, name)(case, "none")
    found = value(backend, getattr(mcld_core, name), case, reduction="none")
    assert_value(found, expected, scale=40.0)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_gradients_equal_differences(
    differentiable: Framework, name: str, options: dict[str, Any]
) -> None:
    case = make_case(223, weights=True, where=True)
    oracle = getattr(oracles, name)
    _, gradient = value_and_grad(differentiable, getattr(mcld_core, name), case, **options)
    expected = differences(lambda x: oracle(case.but(student=x), **options), case.student)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_a_class_that_the_teacher_rules_out(
    backend: Framework, name: str, options: dict[str, Any]
) -> None:
    case = make_case(224)
    teacher = case.teacher.copy()
    teacher[:, 3] = -np.inf  # never a label
    case = case.but(teacher=teacher)
    found = value(backend, getattr(mcld_core, name), case, reduction="none", **options)
    if options.get("divergence") == "reverse":
        assert np.isposinf(found).all()
        return
    assert_value(found, getattr(oracles, name)(case, "none", **options), scale=40.0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_teacher_rules_out_all_but_the_label(backend: Framework, temperature: float) -> None:
    case = make_case(224)
    is_label = np.eye(case.teacher.shape[1], dtype=bool)[case.labels]
    case = case.but(teacher=np.where(is_label, case.teacher, -np.inf))
    options: dict[str, Any] = {"reduction": "none", "temperature": temperature}
    target = np.log(np.exp(case.student).sum(1)) - case.student[is_label]
    for loss in (nkd_loss, rld_loss):
        assert_value(value(backend, loss, case, **options), target, scale=40.0)
    options |= {"divergence": "reverse", "standardize": True}
    assert np.isposinf(value(backend, kd_loss, case, **options)).all()


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_a_class_ruled_out_is_one_of_a_very_low_logit(
    differentiable: Framework, name: str, options: dict[str, Any]
) -> None:
    if name == "dist_loss" or options.get("standardize") or options.get("divergence") == "reverse":
        return  # a column of zeros is constant; -inf is left out of statistics; +inf
    case, found = make_case(224), []
    for low in (-np.inf, -1e4):
        teacher = np.where(np.arange(case.teacher.shape[1]) == 3, low, case.teacher)
        loss = getattr(mcld_core, name)
        found.append(value_and_grad(differentiable, loss, case.but(teacher=teacher), **options))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-9)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_gradients_stay_finite(
    differentiable: Framework, name: str, options: dict[str, Any]
) -> None:
    """A class ruled out, constant rows and columns, rows that are equal, one row alone."""
    case = make_case(225)
    teacher, student = case.teacher.copy(), case.student.copy()
    if options.get("divergence") != "reverse":
        teacher[:, 3] = -np.inf
    student[0], student[1, :] = 1.0, teacher[1]
    student[1, ~np.isfinite(student[1])] = -9.0
    for rows in (slice(None), slice(0, 1)):
        part = case.but(student=student, teacher=teacher).take(rows)
        found, gradient = value_and_grad(differentiable, getattr(mcld_core, name), part, **options)
        assert_finite(found)
        assert_finite(gradient)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_unlikely_classes_in_single_precision(
    differentiable: Framework, name: str, options: dict[str, Any]
) -> None:
    """Classes whose probabilities, or the squares of them, underflow in float32."""
    case = make_case(240, classes=12)
    lowered = 10.0 * np.maximum(np.arange(12.0) - 5, 0)  # no label among them
    case = case.but(
        student=case.student - lowered, teacher=case.teacher - lowered, labels=case.labels % 5
    )
    loss = getattr(mcld_core, name)
    expected = value_and_grad(differentiable, loss, case, "float64", **options)
    found = value_and_grad(differentiable, loss, case, "float32", **options)
    assert_value(found[0], expected[0], "float32")
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4 * np.abs(expected[1]).max())


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_one_class_and_no_row_give_zero(
    differentiable: Framework, name: str, options: dict[str, Any]
) -> None:
    loss = getattr(mcld_core, name)
    one = make_case(226, classes=1)
    none = make_case(227).but(where=np.zeros(5, bool))
    for case in (one.but(labels=np.zeros(5, int)), none, make_case(227).take(slice(0, 0))):
        found, gradient = value_and_grad(differentiable, loss, case, **options)
        assert_zero(found)
        assert_zero(gradient)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_a_dropped_row_may_hold_anything(
    differentiable: Framework, name: str, options: dict[str, Any]
) -> None:
    case = make_case(228, where=True)
    expected = value_and_grad(differentiable, getattr(mcld_core, name), case, **options)
    student, teacher = case.student.copy(), case.teacher.copy()
    student[~case.where], teacher[~case.where] = np.nan, np.inf
    case = case.but(student=student, teacher=teacher)
    found = value_and_grad(differentiable, getattr(mcld_core, name), case, **options)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@hypothesis.given(shift=st.floats(-8, 8), seed=st.integers(0, 99))
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_a_constant_added_to_a_row_changes_nothing(
    backend: Framework, name: str, options: dict[str, Any], shift: float, seed: int
) -> None:
    case = make_case(seed)
    loss = getattr(mcld_core, name)
    expected = value(backend, loss, case, reduction="none", **options)
    moved = case.but(student=case.student + shift, teacher=case.teacher - shift)
    found = value(backend, loss, moved, reduction="none", **options)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [(n, o) for n, o in VARIANTS if n in ("kd_loss", "dkd_loss", "dist_loss")]
    + [("ttm_loss", {"gamma": 1.0})],
    ids=str,
)
def test_zero_where_the_student_equals_the_teacher(
    differentiable: Framework, name: str, options: dict[str, Any]
) -> None:
    case = make_case(230)
    case = case.but(student=case.teacher)
    found, gradient = value_and_grad(
        differentiable, getattr(mcld_core, name), case, "float64", **options
    )
    assert abs(float(found)) < 1e-12
    assert np.abs(gradient).max() < 1e-12


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("kd_loss", {"divergence": "kl"}, "divergence needs one of forward, reverse, jsd"),
        ("kd_loss", {"mix": 0.0}, "mix needs a finite number"),
        ("kd_loss", {"mix": 1.5}, r"mix needs a number in \(0, 1\)"),
        ("dist_loss", {"beta": -1.0}, "beta needs a finite number ≥ 0"),
        ("nkd_loss", {"temperature": 0.0}, "temperature needs a finite number > 0"),
        ("ttm_loss", {"gamma": 0.0}, "gamma needs a finite number > 0"),
        ("rld_loss", {"alpha_temperature": -1.0}, "alpha_temperature needs a finite number > 0"),
    ],
)
def test_errors(name: str, options: dict[str, Any], text: str) -> None:
    case = make_case(231)
    labels = [case.labels] if name in LABELLED else []
    with pytest.raises(ValueError, match=f"{name}: {text}"):
        getattr(mcld_core, name)(case.student, case.teacher, *labels, **options)
    flags = {"kd_loss": "standardize", "ttm_loss": "weighted"}
    if name in flags:
        with pytest.raises(TypeError, match=f"{flags[name]} needs True or False; got 'no'"):
            getattr(mcld_core, name)(case.student, case.teacher, **{flags[name]: "no"})


@pytest.mark.parametrize("scale", [1.0, 1e20, 1e28])
def test_standardized_logits_do_not_overflow_in_float32(
    differentiable: Framework, scale: float
) -> None:
    case = make_case(7)
    large = case.but(student=scale * case.student, teacher=scale * case.teacher)
    options: dict[str, Any] = {"standardize": True, "temperature": 2.0}
    found, gradient = value_and_grad(differentiable, kd_loss, large, "float32", **options)
    _, reference = value_and_grad(differentiable, kd_loss, large, **options)
    assert_value(found, oracles.kd_loss(large, **options), "float32", 4.0)
    assert_gradient(scale * gradient, scale * reference, "float32", 4.0)


def test_dist_correlates_the_columns_of_a_large_batch_as_a_whole(backend: Framework) -> None:
    """In blocks, as the other baselines, the columns of a batch twice would not be the batch's."""
    rows = np.random.default_rng(0).normal(size=(2, 33, 2**14))
    once = value(backend, dist_loss, Case(*rows))
    assert_value(value(backend, dist_loss, Case(*np.tile(rows, (2, 1)))), once)


@pytest.mark.parametrize("name", LABELLED)
def test_ignored_labels_drop_their_rows(backend: Framework, name: str) -> None:
    case = make_case(76)
    ignored = case.but(labels=np.array([0, -100, 1, -100, 2]))
    expected = case.but(labels=np.array([0, 0, 1, 0, 2]), where=ignored.labels >= 0)
    found = value(backend, getattr(mcld_core, name), ignored)
    assert_value(found, getattr(oracles, name)(expected), scale=40.0)


@pytest.mark.parametrize("loss", [kd_loss, dkd_loss])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_extreme_logits_are_finite(differentiable: Framework, loss: Any, dtype: str) -> None:
    """A known defect of a peer: DKD's gradient was not finite in float16."""
    sign = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], size=(2, 5, 4))
    case = make_case(79).but(student=1e4 * sign[0], teacher=1e4 * sign[1])
    found, gradient = value_and_grad(differentiable, loss, case, dtype)
    assert_finite(found, gradient)
    assert found > 1.0

"""The four similarities: values, temperatures, invariances, constant rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import instance_wise
from tests import oracles
from tests.cases import make_case, value, value_and_grad
from tests.frameworks import Framework
from tests.tolerance import assert_finite, assert_value

KINDS = ["probability", "pearson", "cosine", "dot"]
NORMALISED = ["pearson", "cosine"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("temperature", [None, 0.5, 3.0])
@pytest.mark.parametrize("similarity", KINDS)
def test_similarity_equals_its_definition(
    backend: Framework, similarity: str, temperature: float | None, dtype: str
) -> None:
    case = make_case(21)
    settings: dict[str, Any] = {"similarity": similarity, "temperature": temperature}
    found = value(backend, instance_wise, case, dtype, settings, reduction="none")
    expected = oracles.instance_wise(case, "none", **settings)
    assert_value(found, expected, dtype, oracles.scale(case, **settings))


@pytest.mark.parametrize("similarity", ["pearson", "cosine", "dot"])
def test_the_key_temperature_is_for_probabilities_only(backend: Framework, similarity: str) -> None:
    case = make_case(23)
    plain = value(backend, instance_wise, case, settings={"similarity": similarity})
    settings = {"similarity": similarity, "key_temperature": 3.0}
    np.testing.assert_array_equal(value(backend, instance_wise, case, settings=settings), plain)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("constant", [0.0, 0.3, 1e4])
@pytest.mark.parametrize("similarity", NORMALISED)
def test_a_constant_row_has_similarity_and_gradient_zero(
    differentiable: Framework, similarity: str, constant: float, dtype: str
) -> None:
    """Exactly 0, student's or teacher's; and the other rows are left as they are."""
    if similarity == "cosine" and constant:
        constant = 0.0  # only a zero row has no direction there
    case = make_case(25, labels="int").but(labels=np.arange(5) % 4)
    student, teacher = case.student.copy(), case.teacher.copy()
    student[1], teacher[3] = constant, constant
    case = case.but(student=student, teacher=teacher)
    settings = {"similarity": similarity}
    rows = value(differentiable, instance_wise, case, dtype, settings, reduction="none")
    # Row 1 is as similar to its own key as to every other: log of how many there are.
    assert_value(rows[1], np.log(5.0), dtype)
    assert_value(rows, oracles.instance_wise(case, "none", **settings), dtype, scale=10)
    _, gradient = value_and_grad(differentiable, instance_wise, case, dtype, settings)
    np.testing.assert_array_equal(gradient[1], np.zeros(4))
    assert_finite(gradient)
    assert np.abs(gradient[[0, 2, 3, 4]]).max(-1).min() > 0


@pytest.mark.parametrize("similarity", NORMALISED)
def test_a_small_row_is_not_a_constant_row(differentiable: Framework, similarity: str) -> None:
    """Only rows below rounding are cut off: tiny logits keep their direction."""
    case = make_case(26)
    tiny = case.but(student=case.student * 2.0**-40)
    settings = {"similarity": similarity}
    found, gradient = value_and_grad(differentiable, instance_wise, tiny, settings=settings)
    expected, reference = value_and_grad(differentiable, instance_wise, case, settings=settings)
    assert_value(found, expected, scale=10)
    np.testing.assert_allclose(gradient * 2.0**-40, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rows_at_either_side_of_the_cut(differentiable: Framework, dtype: str) -> None:
    """The cut is 32 eps of the row's own norm and dtype: 6 eps is rounding, 180 eps is a row."""
    pattern = np.array([0.0, 1.0, -1.0, 0.0])
    eps = float(np.finfo(dtype).eps)
    case = make_case(28)
    student = case.student.copy()
    student[0] = 1000 * (1 + 8 * eps * pattern)
    student[2] = 1000 * (1 + 256 * eps * pattern)
    near = case.but(student=student)
    settings = {"similarity": "pearson"}
    _, gradient = value_and_grad(differentiable, instance_wise, near, dtype, settings)
    np.testing.assert_array_equal(gradient[0], np.zeros(4))
    assert np.abs(gradient[2]).max() > 1
    student[0], student[2] = 0.0, pattern
    plain = case.but(student=student)
    found = value(differentiable, instance_wise, near, dtype, settings, reduction="none")
    expected = value(differentiable, instance_wise, plain, dtype, settings, reduction="none")
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.05)

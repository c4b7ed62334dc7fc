"""`soft_targets`: the instance-wise term whose positives the teacher grades."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, category_wise, instance_wise, mcld_loss
from tests import oracles
from tests.cases import make_case, make_keys, value, value_and_grad
from tests.frameworks import Framework
from tests.oracles import Case
from tests.tolerance import assert_finite, assert_gradient, assert_value, assert_zero

SOFT = {"soft_targets": True}
SIMILARITIES = ["probability", "pearson", "cosine", "dot"]


def everything() -> Case:
    """Return seven weighted and masked rows among eleven keys, half of which they see."""
    case = make_case(221, batch=7, weights=True, where=True)
    pairs = np.random.default_rng(5).random((7, 11)) < 0.6
    keys = replace(make_keys(case, rows=11, own_start=3), where=np.arange(11) != 1)
    return case.but(keys=keys, pairs=pairs)


@pytest.mark.parametrize("labels", ["int", "soft", "none"])
@pytest.mark.parametrize(
    "settings",
    [{"key_temperature": 2.0, "temperature": 0.5}, *({"similarity": s} for s in SIMILARITIES)],
    ids=str,
)
def test_terms_equal_their_definition(
    backend: Framework, settings: dict[str, Any], labels: str
) -> None:
    settings = SOFT | settings
    for case in (make_case(222, labels=labels), everything()):
        scale = oracles.scale(case, **settings) + oracles.scale(
            case.but(student=case.teacher), **settings
        )
        for function in ("instance_wise", "mcld_loss"):
            library = {"instance_wise": instance_wise, "mcld_loss": mcld_loss}[function]
            found = value(backend, library, case, settings=settings, reduction="none")
            expected = getattr(oracles, function)(case, "none", **settings)
            assert_value(found, expected, scale=scale)


@pytest.mark.parametrize("block_size", [2, None])
def test_blocks_and_half_precision(differentiable: Framework, block_size: Any) -> None:
    case, settings = everything(), SOFT | {"block_size": block_size}
    expected, reference = value_and_grad(differentiable, mcld_loss, case, settings=SOFT)
    assert_value(expected, oracles.mcld_loss(case, **SOFT))
    for dtype in ("float64", "float16"):
        found, gradient = value_and_grad(differentiable, mcld_loss, case, dtype, settings)
        assert_value(found, expected, dtype, oracles.scale(case))
        assert_gradient(gradient, reference, dtype, oracles.scale(case))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_nothing_is_left_at_the_teacher(differentiable: Framework, similarity: str) -> None:
    """Zero, with a zero gradient, at s = t and where the similarity does not see the change."""
    settings, case = SOFT | {"similarity": similarity}, make_case(223)
    students = [case.teacher]
    if similarity in ("probability", "pearson"):
        students.append(case.teacher + np.arange(5.0)[:, None])
    if similarity in ("pearson", "cosine"):
        students.append(case.teacher * np.arange(1.0, 6.0)[:, None])
    for student in students:
        found, gradient = value_and_grad(
            differentiable, instance_wise, case.but(student=student), settings=settings
        )
        assert_zero(found, scale=40.0)
        assert_zero(gradient, scale=40.0)
    assert value(differentiable, instance_wise, case, settings=settings) > 0.1


def test_a_class_that_the_teacher_rules_out(differentiable: Framework) -> None:
    """0 · (−inf) = 0, on one side or on both."""
    case = make_case(225)
    teacher, student = case.teacher.copy(), case.student.copy()
    teacher[:, 3] = teacher[1, 0] = -np.inf
    case = case.but(teacher=teacher, labels=np.array([1, 1, 0, 2, 2]))
    student[:, 3] = -np.inf
    for changed in (case, case.but(student=student)):
        found, gradient = value_and_grad(
            differentiable, instance_wise, changed, settings=SOFT, reduction="sum"
        )
        assert_value(found, oracles.instance_wise(changed, "sum", **SOFT))
        assert_finite(gradient)
        assert np.abs(gradient).max() > 0.01


def test_the_class_prior_is_for_the_category_wise_term_alone(backend: Framework) -> None:
    case, counts = make_case(227), np.array([6.0, 3.0, 2.0, 1.0])
    shifted = case.but(student=case.student - np.log(counts / 12.0))
    _, terms = mcld_loss(
        *(backend.array(x) for x in (case.student, case.teacher, case.labels)),
        class_prior=counts,
        config=MCLDConfig(**SOFT),
        return_terms=True,
    )
    assert_value(backend.to_numpy(terms["instance"]), oracles.instance_wise(case, **SOFT))
    assert_value(backend.to_numpy(terms["category"]), oracles.category_wise(shifted))
    with_option = value(backend, category_wise, case, settings=SOFT)
    np.testing.assert_array_equal(with_option, value(backend, category_wise, case))

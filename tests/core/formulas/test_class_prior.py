"""The class prior: what it leaves alone, its tie to the cross-entropy, what a training finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mcld_core import (
    MCLDConfig,
    TeacherBank,
    adjust_logits,
    balance_logits,
    category_wise,
    instance_wise,
    mcld_loss,
)
from tests import oracles
from tests.cases import make_case, make_keys, value, value_and_grad
from tests.frameworks import Framework
from tests.tolerance import assert_gradient, assert_value

COUNTS = np.array([8.0, 4.0, 0.0, 2.0])
LOG_PRIOR = np.log(np.array([8.0, 4.0, 1.0, 2.0]) / 15.0)  # no count: half the least
LOSSES = (mcld_loss, instance_wise, category_wise)


@pytest.mark.parametrize("labels", ["int", "soft", "none"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_contrasts_see_the_logits_less_the_prior(
    backend: Framework, loss: Callable[..., Any], labels: str
) -> None:
    case = make_case(241, labels=labels, weights=True, where=True)
    case = case.but(keys=make_keys(case, labels=labels, own_start=2))
    prior = backend.array(COUNTS)
    found = value(backend, loss, case, reduction="none", class_prior=prior)
    shifted = case.but(student=case.student - LOG_PRIOR)
    if loss is not mcld_loss:
        assert_value(found, getattr(oracles, loss.__name__)(shifted, "none"))
        return
    expected = oracles.instance_wise(shifted, "none") + oracles.category_wise(shifted, "none")
    assert_value(found, expected + 0.25 * oracles.sample_wise(case, "none"))


def test_a_uniform_prior_and_the_scale_of_counts_change_no_gradient(
    differentiable: Framework,
) -> None:
    case = make_case(243)
    _, expected = value_and_grad(differentiable, mcld_loss, case)
    _, uniform = value_and_grad(differentiable, mcld_loss, case, class_prior=np.full(4, 7.0))
    assert_gradient(uniform, expected)
    few = value_and_grad(differentiable, mcld_loss, case, class_prior=COUNTS)
    many = value_and_grad(differentiable, mcld_loss, case, class_prior=1000 * COUNTS)
    assert_value(many[0], few[0])
    assert_gradient(many[1], few[1])
    assert np.abs(few[1] - expected).max() > 1e-3


def test_with_one_hot_keys_it_is_the_cross_entropy_and_a_constant_a_class(
    differentiable: Framework,
) -> None:
    """``L_cat(s - log π) = CE + log n_y`` where the batch's counts n are the prior."""
    labels = np.array([0, 0, 0, 1, 1, 2, 3, 3])
    counts = np.bincount(labels)
    case = make_case(244, batch=8).but(labels=labels, teacher=1000.0 * np.eye(4)[labels])
    found = value(differentiable, category_wise, case, class_prior=counts, reduction="none")
    ce = oracles.cross_entropy(case, "none")
    assert_value(found, ce + np.log(counts[labels]))
    settings = {"weight_instance": 0.0, "weight_sample": 0.0, "weight_category": 0.0}
    settings["weight_ce"] = 1.0
    _, expected = value_and_grad(differentiable, mcld_loss, case, settings=settings)
    _, gradient = value_and_grad(differentiable, category_wise, case, class_prior=counts)
    assert_gradient(gradient, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_adjusted_logits(backend: Framework, dtype: str) -> None:
    case = make_case(245)
    student = backend.array(case.student, dtype)
    found = adjust_logits(student, COUNTS)
    assert backend.owns(found)
    assert backend.dtype(found) == ("float64" if dtype == "float64" else "float32")
    assert_value(backend.to_numpy(found), case.student + LOG_PRIOR, dtype)


def test_balanced_predictions_take_the_prior_off_again(backend: Framework) -> None:
    case = make_case(245)
    found = balance_logits(backend.array(case.student, "float16"), backend.array(COUNTS))
    assert backend.owns(found)
    assert backend.dtype(found) == "float32"
    assert_value(backend.to_numpy(found), case.student - LOG_PRIOR, "float32")
    student = backend.array(case.student)
    back = balance_logits(adjust_logits(student, COUNTS), COUNTS)
    assert_value(backend.to_numpy(back), case.student)


def test_with_a_bank_blocks_and_a_compiler(differentiable: Framework) -> None:
    case = make_case(246, batch=7)
    student, teacher, labels = (
        differentiable.array(x, "float32") for x in (case.student, case.teacher, case.labels)
    )
    bank = TeacherBank.from_logits(teacher, labels)
    prior = differentiable.array(COUNTS, "float32")

    def loss(student: Any, block_size: Any) -> Any:
        keys = bank.keys(teacher, labels)
        config = MCLDConfig(block_size=block_size)
        return mcld_loss(student, teacher, labels, keys=keys, config=config, class_prior=prior)

    compiled = differentiable.jit(lambda student: loss(student, 3))
    joined = case.but(
        student=case.student - LOG_PRIOR,
        keys=oracles.Keys(np.tile(case.teacher, (2, 1)), np.tile(case.labels, 2)),
    )
    expected = oracles.instance_wise(joined) + oracles.category_wise(joined)
    expected = expected + 0.25 * oracles.sample_wise(case)
    for found in (loss(student, 3), loss(student, None), compiled(student)):
        assert_value(differentiable.to_numpy(found), expected, "float32", scale=8.0)


@pytest.mark.parametrize(
    ("prior", "text"),
    [
        (np.ones(3), r"class_prior needs shape \(4,\).*got \(3,\)"),
        (np.ones((1, 4)), r"class_prior needs shape \(4,\)"),
        (np.array([1.0, -2.0, 1, 1]), "finite numbers ≥ 0; got -2.0 in class 1"),
        (np.array([1.0, np.nan, 1, 1]), "finite numbers ≥ 0; got nan in class 1"),
        (np.zeros(4), "needs a positive entry"),
    ],
)
def test_errors(backend: Framework, prior: np.ndarray, text: str) -> None:
    case = make_case(248)
    for loss in LOSSES:
        with pytest.raises(ValueError, match=f"{loss.__name__}: .*{text}"):
            value(backend, loss, case, class_prior=prior)
    for function in (adjust_logits, balance_logits):
        with pytest.raises(ValueError, match=f"{function.__name__}: .*{text}"):
            function(backend.array(case.student), prior)

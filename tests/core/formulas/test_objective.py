"""The total loss: weights, ramp, reductions, masks, terms, dtypes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, mcld_loss
from tests import oracles
from tests.cases import bind, make_case, value, value_and_grad
from tests.frameworks import Framework
from tests.tolerance import assert_value

SETTINGS: list[dict[str, Any]] = [
    {},
    {"weight_instance": 0.0},
    {"weight_sample": 0.0},
    {"weight_category": 0.0},
    {"weight_ce": 0.7},
    {"weight_instance": 2.0, "weight_sample": 0.5, "weight_category": 3.0, "weight_ce": 1.0},
    {"weight_instance": 0, "weight_sample": 0, "weight_category": 0, "weight_ce": 1},
    {"target_mask": False, "sample_target_mask": False},
    {"category_contrast": "prototypes", "key_temperature": 2.0},
    {"category_contrast": "columns", "weight_ce": 0.5},
    {"similarity": "pearson", "beta": 2.0, "sample_temperature": 2.0},
]


def test_the_defaults_are_the_contracts() -> None:
    defaults = {f.name: f.default for f in dataclasses.fields(MCLDConfig)}
    assert defaults == oracles.DEFAULTS | {"block_size": "auto"}


def test_the_config_is_frozen_and_hashable() -> None:
    config = MCLDConfig(beta=2.0)
    assert hash(config) == hash(MCLDConfig(beta=2.0))
    assert config != MCLDConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.beta = 3.0  # type: ignore[misc]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("labels", ["int", "soft", "none"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_total_equals_its_definition(
    backend: Framework, settings: dict[str, Any], labels: str, dtype: str
) -> None:
    case = make_case(31, labels=labels, weights=True, where=True).but(progress=0.4)
    if labels == "none" and settings.get("weight_ce"):
        with pytest.raises(ValueError, match="labels are needed where"):
            value(backend, mcld_loss, case, dtype, settings)
        return
    found = value(backend, mcld_loss, case, dtype, settings)
    expected = oracles.mcld_loss(case, **settings)
    assert_value(found, expected, dtype, oracles.scale(case, **settings))


@pytest.mark.parametrize("warmup", [0.0, 0.5, 2])
@pytest.mark.parametrize("progress", [0, 0.25, 1.0])
def test_ramp(backend: Framework, progress: float, warmup: float) -> None:
    case = make_case(32).but(progress=progress)
    call = bind(backend, mcld_loss, case, settings={"category_warmup": warmup}, return_terms=True)
    loss, terms = call(backend.array(case.student))
    assert_value(backend.to_numpy(loss), oracles.mcld_loss(case, category_warmup=warmup))
    assert_value(np.asarray(terms["ramp"]), oracles.ramp(progress, warmup))


@pytest.mark.parametrize("warmup", [0.0, 0.4, 1.0])
def test_progress_and_warmup_may_be_tensors(backend: Framework, warmup: float) -> None:
    case = make_case(23, batch=6).but(progress=0.125)
    for dtype in ("float32", "float64"):
        tensor, progress = (backend.array(np.asarray(x), dtype) for x in (warmup, 0.125))
        settings = {"category_warmup": tensor}
        found = value(backend, mcld_loss, case, settings=settings, progress=progress)
        assert_value(found, oracles.mcld_loss(case, category_warmup=warmup), dtype)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weight_ce", [0.0, 0.5])
def test_terms_come_without_weight_and_ramp(
    backend: Framework, reduction: str, weight_ce: float
) -> None:
    case = make_case(34, weights=True, where=True)
    case = case.but(progress=weight_ce)  # at 0 the category-wise term is reported, too
    case = case.but(keys=oracles.Keys(case.teacher, case.labels, case.where, normalizer=20.0))
    settings = {"weight_instance": 3.0, "weight_sample": 0.0, "weight_ce": weight_ce}
    options = {"reduction": reduction, "return_terms": True}
    loss, terms = bind(backend, mcld_loss, case, settings=settings, **options)(
        backend.array(case.student)
    )
    expected = oracles.terms(case, reduction, **settings)
    assert set(terms) == set(expected)
    for name, term in terms.items():
        assert name == "ramp" or backend.owns(term), f"{name} is a {type(term)}"
        found = np.asarray(term) if name == "ramp" else backend.to_numpy(term)
        assert_value(found, expected[name])
    assert_value(backend.to_numpy(loss), oracles.mcld_loss(case, reduction, **settings))


@pytest.mark.parametrize("block_size", ["auto", None])
def test_terms_carry_no_gradient(differentiable: Framework, block_size: str | None) -> None:
    """The gradient of loss + terms is the gradient of the loss."""
    case = make_case(35)
    settings = {"weight_ce": 0.5, "block_size": block_size}
    call = bind(differentiable, mcld_loss, case, settings=settings, return_terms=True)

    def with_terms(student: Any) -> Any:
        loss, terms = call(student)
        return loss + terms["instance"] + terms["sample"] + terms["category"] + terms["ce"]

    _, gradient = differentiable.value_and_grad(with_terms, case.student)
    _, expected = value_and_grad(differentiable, mcld_loss, case, settings=settings)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-15)
    assert np.abs(expected).max() > 0.01


def test_a_term_of_weight_zero_is_not_computed(backend: Framework) -> None:
    """A NaN in what only that term reads does not reach the loss."""
    case = make_case(36)
    teacher = case.teacher.copy()
    teacher[0, 0] = np.nan
    weights = {"weight_instance": 0, "weight_sample": 0.0, "weight_category": 0}
    settings = weights | {"weight_ce": 1.0}
    found = value(backend, mcld_loss, case.but(teacher=teacher), settings=settings)
    assert_value(found, oracles.cross_entropy(case))


def test_all_weights_zero(backend: Framework) -> None:
    case = make_case(37)
    weights = {"weight_instance": 0, "weight_sample": 0, "weight_category": 0}
    for reduction, shape in (("mean", ()), ("sum", ()), ("none", (5,))):
        found = value(backend, mcld_loss, case, settings=weights, reduction=reduction)
        np.testing.assert_array_equal(found, np.zeros(shape))


@pytest.mark.parametrize("ignore_index", [-100, 2, 255])
def test_ignored_labels_drop_their_rows(backend: Framework, ignore_index: int) -> None:
    case = make_case(39)
    labels = np.array([0, ignore_index, 1, 0, ignore_index])
    ignored = case.but(labels=labels)
    settings = {"ignore_index": ignore_index}
    masked = case.but(labels=np.array([0, 0, 1, 0, 0]), where=labels != ignore_index)
    for reduction in ("none", "mean"):
        found = value(backend, mcld_loss, ignored, settings=settings, reduction=reduction)
        assert_value(found, oracles.mcld_loss(masked, reduction))


def test_weights_that_sum_to_zero_give_zero(differentiable: Framework) -> None:
    case = make_case(41).but(sample_weight=np.zeros(5))
    found, gradient = value_and_grad(differentiable, mcld_loss, case)
    assert found == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((5, 4)))


def test_dtypes_in_and_out(backend: Framework) -> None:
    """Half precision in, a float32 loss; float64 stays float64."""
    case = make_case(42)
    for dtype in backend.dtypes:
        expected = "float64" if dtype == "float64" else "float32"
        call = bind(backend, mcld_loss, case, dtype, return_terms=True)
        loss, terms = call(backend.array(case.student, dtype))
        assert backend.owns(loss)
        assert backend.dtype(loss) == expected
        assert {backend.dtype(term) for name, term in terms.items() if name != "ramp"} == {expected}
        assert_value(backend.to_numpy(loss), oracles.mcld_loss(case), dtype, oracles.scale(case))


def test_student_and_teacher_of_different_dtypes(differentiable: Framework) -> None:
    """The loss is float32, whatever the teacher is: the usual mixed precision."""
    case = make_case(43)
    teacher = differentiable.array(case.teacher, "float64")
    labels = differentiable.array(case.labels)
    for dtype in ("float16", "bfloat16"):
        student = differentiable.array(case.student, dtype)
        loss, gradient = differentiable.gradient(lambda s: mcld_loss(s, teacher, labels), student)
        assert differentiable.dtype(loss) == "float32"
        assert differentiable.dtype(gradient) == dtype
        assert_value(differentiable.to_numpy(loss), oracles.mcld_loss(case), "float32")

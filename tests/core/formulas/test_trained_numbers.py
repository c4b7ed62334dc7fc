"""A number of the objective that is itself trained gets its true gradient, blocks or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mcld_core
from mcld_core import MCLDConfig, mcld_loss
from tests.cases import make_case
from tests.differences import slope
from tests.frameworks import Framework

NUMBERS = (
    "weight_instance",
    "weight_sample",
    "weight_category",
    "weight_ce",
    "temperature",
    "key_temperature",
    "sample_temperature",
    "beta",
)


def compare(differentiable: Framework, loss_at: Callable[[Any], Any], at: float) -> None:
    _, gradient = differentiable.gradient(loss_at, differentiable.array(np.asarray(at), "float64"))
    expected = slope(lambda x: float(loss_at(x)), at)
    assert abs(expected) > 1e-4
    assert abs(float(gradient) - expected) <= 1e-8 * max(1.0, abs(expected))


@pytest.mark.parametrize("block_size", [2, "auto"])
@pytest.mark.parametrize("name", NUMBERS)
def test_settings(differentiable: Framework, name: str, block_size: Any) -> None:
    """JAX gave 0 and TensorFlow None, in silence."""
    case = make_case(211, batch=6, weights=True)
    arrays = [differentiable.array(x) for x in (case.student, case.teacher, case.labels)]
    weight = differentiable.array(case.sample_weight)

    def loss_at(number: Any) -> Any:
        config = MCLDConfig(**{"weight_ce": 0.5, name: number, "block_size": block_size})
        return mcld_loss(*arrays, config=config, sample_weight=weight, progress=0.7)

    compare(differentiable, loss_at, 0.8)


@pytest.mark.parametrize("name", ["key_temperature", "sample_temperature"])
@pytest.mark.parametrize("contrast", ["labels", "prototypes", "columns"])
def test_temperatures_beside_a_class_that_the_teacher_rules_out(
    differentiable: Framework, contrast: str, name: str
) -> None:
    """The gradient was NaN."""
    case = make_case(214, batch=6)
    teacher = np.where(np.arange(case.teacher.shape[1]) == 3, -np.inf, case.teacher)  # no label
    arrays = [differentiable.array(x) for x in (case.student, teacher, case.labels)]

    def loss_at(number: Any) -> Any:
        config = MCLDConfig(**{"category_contrast": contrast, name: number})
        return mcld_loss(*arrays, config=config)

    compare(differentiable, loss_at, 0.8)


@pytest.mark.parametrize(
    ("name", "number", "options"),
    [
        ("kd_loss", "temperature", {}),
        ("kd_loss", "temperature", {"standardize": True}),
        ("kd_loss", "temperature", {"divergence": "jsd"}),
        ("dkd_loss", "temperature", {}),
        ("dist_loss", "temperature", {}),
        ("nkd_loss", "temperature", {}),
        ("ttm_loss", "gamma", {}),
        ("rld_loss", "temperature", {}),
        ("rld_loss", "alpha_temperature", {}),
    ],
)
def test_baselines_beside_a_class_that_the_teacher_rules_out(
    differentiable: Framework, name: str, number: str, options: dict[str, Any]
) -> None:
    case = make_case(215, batch=6)
    teacher = np.where(np.arange(case.teacher.shape[1]) == 3, -np.inf, case.teacher)  # no label
    labels = [case.labels] if name in ("dkd_loss", "nkd_loss", "rld_loss") else []
    arrays = [differentiable.array(x) for x in (case.student, teacher, *labels)]
    loss = getattr(mcld_core, name)
    compare(differentiable, lambda x: loss(*arrays, **{number: x}, **options), 0.8)

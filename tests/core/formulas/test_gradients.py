"""Gradients of every switch: each framework's against central differences of the reference."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import mcld_core
from tests import oracles
from tests.cases import bind, make_case, make_keys, value_and_grad
from tests.differences import differences
from tests.frameworks import Framework, load
from tests.oracles import Case
from tests.tolerance import assert_central, assert_gradient, assert_value

SIMILARITIES = ["probability", "pearson", "cosine", "dot"]
CONTRASTS = ["labels", "prototypes", "columns"]
SWITCHES: list[tuple[str, dict[str, Any]]] = [
    *(("mcld_loss", {"similarity": name}) for name in SIMILARITIES),
    *(("category_wise", {"category_contrast": name}) for name in CONTRASTS),
    ("instance_wise", {"target_mask": False}),
    ("instance_wise", {"temperature": 0.5, "key_temperature": 2.0}),
    ("instance_wise", {"similarity": "pearson", "temperature": 0.2}),
    ("instance_wise", {"soft_targets": True, "similarity": "cosine"}),
    ("mcld_loss", {"soft_targets": True}),
    ("category_wise", {"category_contrast": "prototypes", "similarity": "pearson"}),
    ("category_wise", {"category_contrast": "columns", "key_temperature": 2.0}),
    ("sample_wise", {"sample_target_mask": False}),
    ("sample_wise", {"beta": 3.0, "sample_temperature": 1.0}),
    ("mcld_loss", {"weight_instance": 2.0, "weight_sample": 0.0, "weight_ce": 0.5}),
    ("mcld_loss", {"weight_category": 2.0, "category_warmup": 0.5}),
    ("mcld_loss", {"category_contrast": "prototypes", "similarity": "cosine"}),
]
KINDS = ["int", "soft", "none", "keys", "masked"]


@functools.cache
def the_case(kind: str) -> Case:
    """Return a case of one kind: its labels, its keys, or weights and masks."""
    if kind in ("int", "soft", "none"):
        return make_case(91, labels=kind).but(progress=0.3)
    case = make_case(92, weights=kind == "masked", where=kind == "masked")
    keys = make_keys(case, own_start=2)
    if kind == "masked":
        keys = replace(keys, where=np.arange(9) != 7, normalizer=3.0)
    return case.but(keys=keys, progress=0.3)


@functools.cache
def central_difference(name: str, settings: tuple[tuple[str, Any], ...], kind: str) -> np.ndarray:
    """Return the five-point difference of the NumPy reference at every student logit."""
    case = the_case(kind)
    call = bind(load("numpy"), getattr(mcld_core, name), case, settings=dict(settings))
    return differences(lambda student: float(call(student)), case.student)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "settings"), SWITCHES, ids=str)
def test_gradient_equals_central_differences(
    differentiable: Framework, name: str, settings: dict[str, Any], kind: str
) -> None:
    if kind in ("keys", "masked") and settings.get("category_contrast") == "columns":
        kind = "int"  # a column's keys are the batch itself
    if kind == "none" and "weight_ce" in settings:
        kind = "soft"  # no cross-entropy without labels
    case = the_case(kind)
    found, gradient = value_and_grad(
        differentiable, getattr(mcld_core, name), case, settings=settings
    )
    scale = oracles.scale(case, **settings)
    assert_value(found, getattr(oracles, name)(case, **settings), scale=scale)
    expected = central_difference(name, tuple(sorted(settings.items())), kind)
    assert_central(gradient, expected, scale)


@pytest.mark.parametrize("kind", ["int", "soft", "keys"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_float32_gradient_equals_float64s(
    differentiable: Framework, similarity: str, kind: str
) -> None:
    case, settings = the_case(kind), {"similarity": similarity}
    _, expected = value_and_grad(differentiable, mcld_core.mcld_loss, case, settings=settings)
    for dtype in differentiable.dtypes:
        _, gradient = value_and_grad(differentiable, mcld_core.mcld_loss, case, dtype, settings)
        assert_gradient(gradient, expected, dtype, oracles.scale(case, **settings))


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_gradient_of_a_weighted_sum_of_rows(differentiable: Framework, reduction: str) -> None:
    """What comes back through `reduction="none"` is each row's own share of the incoming."""
    case = the_case("int")
    incoming = np.array([0.5, -1.0, 0.0, 2.0, 3.0])
    if reduction == "sum":
        incoming = np.full(5, -2.0)
    call = bind(differentiable, mcld_core.mcld_loss, case, reduction=reduction)
    scale = differentiable.array(incoming if reduction == "none" else np.float64(-2.0))

    def total(student: Any) -> Any:
        rows = scale * call(student)
        return rows if reduction == "sum" else sum(rows[i] for i in range(5))

    _, gradient = differentiable.value_and_grad(total, case.student)
    expected = differences(
        lambda student: float(incoming @ oracles.mcld_loss(case.but(student=student), "none")),
        case.student,
    )
    assert_central(gradient, expected)


@pytest.mark.parametrize("name", ["keys", "int"])
@pytest.mark.parametrize("contrast", ["labels", "prototypes", "columns"])
@pytest.mark.parametrize("block_size", ["auto", None])
def test_the_teacher_gets_no_gradient(
    differentiable: Framework, block_size: str | None, contrast: str, name: str
) -> None:
    """Neither its logits, nor its keys, nor the prototypes; in blocks and in the plain form."""
    if contrast == "columns":
        name = "int"
    case = the_case(name)
    settings: dict[str, Any] = {"category_contrast": contrast, "weight_ce": 0.5}
    settings |= {"block_size": block_size, "soft_targets": block_size is None}
    teacher = differentiable.array(case.teacher)
    student = differentiable.array(case.student)
    labels = differentiable.array(case.labels)
    config = mcld_core.MCLDConfig(**settings)

    def by_teacher(teacher: Any) -> Any:
        # The term keeps the loss connected to the argument in every framework.
        loss = mcld_core.mcld_loss(student, teacher, labels, config=config)
        return loss + 0.0 * (teacher * teacher)[0, 0]

    _, gradient = differentiable.gradient(by_teacher, teacher)
    np.testing.assert_array_equal(differentiable.to_numpy(gradient), np.zeros(teacher.shape))
    if case.keys is None:
        return
    key_logits = differentiable.array(case.keys.logits)
    prototypes = differentiable.array(np.abs(case.teacher[:4]))

    def by_keys(key_logits: Any) -> Any:
        given = prototypes + 0.0 * key_logits[:4]
        keys = mcld_core.TeacherKeys(
            key_logits, differentiable.array(case.keys.labels), own_start=2, prototypes=given
        )
        loss = mcld_core.mcld_loss(student, teacher, labels, config=config, keys=keys)
        return loss + 0.0 * (key_logits * key_logits)[0, 0]

    _, gradient = differentiable.gradient(by_keys, key_logits)
    np.testing.assert_array_equal(differentiable.to_numpy(gradient), np.zeros((9, 4)))

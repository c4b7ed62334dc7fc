"""A teacher stored as top k: its sparse formulas equal those on the dense rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig
from mcld_core.extensions.nlp import TopKLogits, token_mcld_loss
from mcld_core.extensions.timeseries import window_mcld_loss
from tests.extensions.cases import CLASSES, SequenceCase, make_case
from tests.extensions.nlp.token_cases import EVERY_CONTRAST, SCALE, bind
from tests.extensions.timeseries.test_timeseries import PLACES, WINDOW_LABELS
from tests.extensions.timeseries.test_timeseries import bind as bind_windows
from tests.frameworks import Framework
from tests.tolerance import assert_gradient, assert_value

VARIANTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"weight_ce": 0.5, "weight_sample": 2.0}, {"shift": True}),
    ({"sample_target_mask": False, "target_mask": False}, {"token_contrast": 0.5}),
    ({"key_temperature": 2.0, "temperature": 0.5}, {"category": "sequence"}),
    ({"weight_instance": 0.0, "weight_category": 0.0, "weight_sample": 1.0}, {}),
    ({"block_size": 5, "sample_temperature": 0.5}, {"labels": None}),
]


def stored_case(seed: int, k: int, tail: bool) -> tuple[TopKLogits, SequenceCase]:
    """A stored teacher, and the same rows as dense log-probabilities."""
    case = make_case(seed)
    stored = TopKLogits.from_logits(case.teacher, k)
    stored = stored if tail else stored._replace(tail=None)
    if tail:  # a mass that a row has none of
        stored.tail[0, 0] = 0.0
    return stored, case.but(teacher=stored.dense(CLASSES))


@pytest.mark.parametrize("k", [1, 2, CLASSES - 1, CLASSES])
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize(("settings", "options"), VARIANTS, ids=str)
def test_value_and_gradient_equal_those_of_the_dense_rows(
    differentiable: Framework, settings: dict[str, Any], options: dict[str, Any], tail: bool, k: int
) -> None:
    stored, dense = stored_case(60, k, tail)
    teacher = TopKLogits(*(differentiable.array(x, "float64") for x in stored))
    reference = bind(differentiable, dense, settings=settings, **options)
    found = bind_stored(differentiable, dense, teacher, settings, options)
    value, gradient = differentiable.value_and_grad(reference, dense.student)
    found_value, found_gradient = differentiable.value_and_grad(found, dense.student)
    assert_value(found_value, value, scale=SCALE)
    assert_gradient(found_gradient, gradient, scale=SCALE)


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("name", ["key_temperature", "sample_temperature"])
def test_a_trained_temperature_has_the_gradient_of_the_dense_rows(
    differentiable: Framework, name: str, tail: bool
) -> None:
    """PyTorch lost the part of the key temperature that the products with stored keys have."""
    stored, dense = stored_case(65, 2, tail)
    student, teacher, labels = (
        differentiable.array(x) for x in (dense.student, dense.teacher, dense.labels)
    )
    kept = TopKLogits(*(differentiable.array(x, "float64") for x in stored))

    def loss(number: Any, rows: Any) -> Any:
        config = MCLDConfig(**{name: number})
        return token_mcld_loss(student, rows, labels, config=config, **EVERY_CONTRAST)

    found, reference = (
        differentiable.value_and_grad(lambda number, rows=rows: loss(number, rows), np.asarray(0.8))
        for rows in (kept, teacher)
    )
    assert_value(found[0], reference[0], scale=SCALE)
    assert_gradient(found[1], reference[1], scale=SCALE)


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"weight_ce": 0.5}, {}),
        ({}, {"labels": None, "step_contrast": 0.5}),
        ({"key_temperature": 2.0}, {"category": "step", "reduction": "sum"}),
    ],
    ids=str,
)
def test_windows_equal_those_of_the_dense_rows(
    differentiable: Framework, settings: dict[str, Any], options: dict[str, Any], tail: bool
) -> None:
    stored, dense = stored_case(64, 2, tail)
    teacher = TopKLogits(*(differentiable.array(x, "float64") for x in stored))
    given = {"labels": WINDOW_LABELS, "mask": dense.mask, **PLACES} | options
    arrays = {
        name: differentiable.array(x) if isinstance(x, np.ndarray) else x
        for name, x in given.items()
    }
    config = MCLDConfig(**settings)
    value, gradient = differentiable.value_and_grad(
        bind_windows(differentiable, dense, settings=settings, **options), dense.student
    )
    found_value, found_gradient = differentiable.value_and_grad(
        lambda s: window_mcld_loss(s, teacher, config=config, **arrays), dense.student
    )
    assert_value(found_value, value, scale=SCALE)
    assert_gradient(found_gradient, gradient, scale=SCALE)


def test_one_row_a_window_has_no_stored_teacher(no_default_backend: None) -> None:
    rows = np.zeros((2, CLASSES))
    stored = TopKLogits(rows, np.zeros((2, CLASSES), "int32"))
    with pytest.raises(ValueError, match=r"window_mcld_loss: .* the latter alone for TopKLogits"):
        window_mcld_loss(rows, stored)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_in_every_dtype_and_compiled(differentiable: Framework, dtype: str, compiled: bool) -> None:
    stored, dense = stored_case(61, 2, True)
    teacher = TopKLogits(*(differentiable.array(x, "float32") for x in stored))
    settings, options = VARIANTS[0]
    reference = bind(differentiable, dense, settings=settings, **options)
    found = bind_stored(differentiable, dense, teacher, settings, options, dtype)
    found = differentiable.jit(found) if compiled else found
    value, gradient = differentiable.value_and_grad(reference, dense.student)
    found_value, found_gradient = differentiable.value_and_grad(found, dense.student, dtype)
    assert_value(found_value, value, "float32", SCALE)
    assert_gradient(found_gradient, gradient, dtype, SCALE)


def test_values_of_numpy(no_default_backend: None) -> None:
    stored, dense = stored_case(62, 2, True)
    options: dict[str, Any] = {"attention_mask": dense.mask, "sequence_labels": dense.groups}
    found = token_mcld_loss(dense.student, stored, dense.labels, **options)
    reference = token_mcld_loss(dense.student, dense.teacher, dense.labels, **options)
    assert_value(found, reference, scale=SCALE)


@pytest.mark.parametrize(
    "settings", [{"similarity": "pearson"}, {"category_contrast": "prototypes"}], ids=str
)
def test_what_needs_all_logits_is_an_error(
    no_default_backend: None, settings: dict[str, Any]
) -> None:
    (name,) = settings
    stored, dense = stored_case(63, 2, True)
    with pytest.raises(ValueError, match=rf"{name}=.* needs all logits .*dense\(vocabulary\)"):
        token_mcld_loss(dense.student, stored, dense.labels, config=MCLDConfig(**settings))


def bind_stored(
    backend: Framework,
    case: SequenceCase,
    teacher: TopKLogits,
    settings: dict[str, Any],
    options: dict[str, Any],
    dtype: str = "float64",
) -> Any:
    """Return student → the loss with the stored teacher."""
    given = {"labels": case.labels, "attention_mask": case.mask, "sequence_labels": case.groups}
    options = EVERY_CONTRAST | options
    arrays = {
        name: backend.array(x) if isinstance(x, np.ndarray) else x
        for name, x in (given | options).items()
    }
    config = MCLDConfig(**settings)
    return lambda student: token_mcld_loss(student, teacher, config=config, **arrays)

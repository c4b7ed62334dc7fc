"""Tokens and windows with unusual arguments: no rows at all, ids below 0, values out of range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig
from mcld_core.extensions.nlp import TopKLogits, align_vocabulary, token_mcld_loss
from mcld_core.extensions.timeseries import bin_labels, window_mcld_loss
from tests.extensions.cases import BATCH, CLASSES, TIME, make_case
from tests.extensions.nlp.token_cases import bind
from tests.frameworks import Framework
from tests.tolerance import assert_value


@pytest.mark.parametrize("number", [-1, -2, -3])
def test_negative_ids_of_sequences_are_shared_with_no_other(
    backend: Framework, number: int
) -> None:
    case = make_case(50)
    student = backend.array(case.student, "float64")
    apart = bind(backend, case, sequence_labels=np.arange(BATCH))(student)
    found = bind(backend, case, sequence_labels=np.full(BATCH, number))(student)
    assert_value(backend.to_numpy(found), backend.to_numpy(apart))


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("shape", [(0, TIME, CLASSES), (BATCH, 0, CLASSES), (0, 0, CLASSES)])
def test_no_tokens_are_zero_with_a_zero_gradient(
    differentiable: Framework, shape: tuple[int, ...], shift: bool
) -> None:
    logits = np.zeros(shape)
    teacher, labels = (differentiable.array(x) for x in (logits, np.zeros(shape[:2], int)))

    def loss(student: Any) -> Any:
        return token_mcld_loss(student, teacher, labels, shift=shift)

    for function in (loss, differentiable.jit(loss)):
        value, gradient = differentiable.value_and_grad(function, logits)
        assert value == 0.0
        assert gradient.shape == shape


@pytest.mark.parametrize("category", ["window", "step"])
@pytest.mark.parametrize("shape", [(0, TIME, CLASSES), (BATCH, 0, CLASSES)])
def test_no_steps_are_zero_with_a_zero_gradient(
    differentiable: Framework, shape: tuple[int, ...], category: str
) -> None:
    logits, labels = np.zeros(shape), np.zeros(shape[0], int)

    def loss(student: Any) -> Any:
        return window_mcld_loss(
            student, differentiable.array(logits), differentiable.array(labels), category=category
        )

    value, gradient = differentiable.value_and_grad(loss, logits)
    assert value == 0.0
    assert gradient.shape == shape


LOGITS = np.zeros((1, 2, 3))
BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: token_mcld_loss(LOGITS, None), TypeError, "teacher_logits needs an array"),
    (
        lambda: token_mcld_loss(LOGITS, {"logits": LOGITS}),
        TypeError,
        "needs an array of numbers; got dict",
    ),
    (lambda: token_mcld_loss(LOGITS, LOGITS, config={}), TypeError, r"needs an MCLDConfig; got {}"),
    (lambda: token_mcld_loss(LOGITS, LOGITS, shift=1), TypeError, "shift needs True or False"),
    (lambda: token_mcld_loss(LOGITS, LOGITS, progress=3), ValueError, r"progress needs .* 0 … 1"),
    (lambda: token_mcld_loss(LOGITS, LOGITS, token_contrast="1"), TypeError, "token_contrast"),
    (
        lambda: token_mcld_loss(LOGITS, LOGITS, token_contrast=float("nan")),
        ValueError,
        "token_contrast needs a finite number",
    ),
    *(
        (
            lambda loss=loss: loss(LOGITS, LOGITS, config=MCLDConfig(weight_ce=1.0)),
            ValueError,
            "weight_ce needs labels to take the cross-entropy of; got None",
        )
        for loss in (token_mcld_loss, window_mcld_loss)
    ),
    (lambda: window_mcld_loss(LOGITS, None), TypeError, "teacher_logits needs an array"),
    (lambda: window_mcld_loss(LOGITS, LOGITS, config=MCLDConfig), TypeError, "class MCLDConfig"),
    (
        lambda: window_mcld_loss(LOGITS, LOGITS, starts=[0], lengths=[0]),
        ValueError,
        "lengths needs numbers of steps > 0; got 0",
    ),
    (lambda: window_mcld_loss(LOGITS, LOGITS, starts=[0], lengths=-4), ValueError, "got -4"),
    (lambda: TopKLogits.from_logits(LOGITS, 1.5), TypeError, "k needs an int"),
    (lambda: bin_labels([1.0], [2.0, 1.0]), ValueError, "increasing and finite; got"),
    (lambda: bin_labels([1.0], [1.0, float("nan")]), ValueError, "increasing and finite"),
    (lambda: bin_labels([1.0], [[1.0, 2.0]]), ValueError, r"edges need shape \(bins - 1,\)"),
    (lambda: align_vocabulary({"a": -1}, ["a"]), ValueError, "teacher_vocab .* got 1 ids in -1"),
    (
        lambda: align_vocabulary(["a"], {"a": 0, "b": 0}),
        ValueError,
        "student_vocab .* for 2 tok",
    ),
    (lambda: align_vocabulary(["a", "a"], ["a"]), ValueError, "teacher_vocab .* for 2 tok"),
    (lambda: align_vocabulary({"a": 0.5}, ["a"]), TypeError, "needs int ids; got float64"),
    (lambda: align_vocabulary(["a"], ["a"], student_size="1"), TypeError, "student_size needs an"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=[text for *_, text in BAD])
def test_what_makes_no_sense_is_an_error(
    no_default_backend: None, call: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        call()

"""What the functions of `teachers` refuse, and that each error says what came and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, TeacherKeys
from mcld_core.extensions.teachers import (
    TeacherQuality,
    adaptive_mcld_loss,
    bounded_loss,
    ensemble,
    outlier_weights,
    quality_weights,
    reliability_weights,
    repair_rows,
)
from tests.frameworks import Framework
from tests.tolerance import assert_value, assert_zero

ROWS, CLASSES = 6, 4
RNG = np.random.default_rng(3)
TEACHER = RNG.normal(size=(ROWS, CLASSES))
LABELS = RNG.integers(0, CLASSES, ROWS)
TRUST = np.linspace(0.0, 1.0, ROWS)
LOSSES = np.linspace(0.0, 5.0, ROWS)


class Given:
    """The arrays of one backend."""

    def __init__(self, backend: Framework) -> None:
        self.t = backend.array(TEACHER, "float64")
        self.y = backend.array(LABELS)
        self.r = backend.array(TRUST, "float64")
        self.losses = backend.array(LOSSES, "float64")
        self.quality = TeacherQuality.from_logits(self.t, self.y)
        self.array = lambda x: backend.array(np.asarray(x), "float64")


Case = tuple[Callable[[Given], Any], type[Exception], str]


def refused(backend: Framework, case: Case) -> None:
    call, error, text = case
    with pytest.raises(error, match=re.escape(text)):
        call(Given(backend))


NEEDS_LABELS: dict[str, Callable[[Given], Any]] = {
    "reliability_weights": lambda g: reliability_weights(g.t, None),
    "outlier_weights": lambda g: outlier_weights(g.t, None),
    "repair_rows": lambda g: repair_rows(g.t, None, g.r),
    "adaptive_mcld_loss": lambda g: adaptive_mcld_loss(g.t, g.t, None, reliability=g.r),
    "TeacherQuality": lambda g: TeacherQuality.from_logits(g.t, None),
    "TeacherQuality.update": lambda g: g.quality.update(g.t, None),
}


@pytest.mark.parametrize("name", NEEDS_LABELS)
def test_a_teacher_is_not_measured_against_its_own_arg_max(backend: Framework, name: str) -> None:
    refused(backend, (NEEDS_LABELS[name], TypeError, f"{name}"))
    refused(backend, (NEEDS_LABELS[name], TypeError, "soft labels; got None. Pass the true labels"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_reliability_that_is_not_finite_is_refused_in_rows_that_count(
    backend: Framework, bad: float
) -> None:
    given, trust = Given(backend), np.where(np.arange(ROWS) == 2, bad, TRUST)
    where = backend.array(np.arange(ROWS) != 2)
    trust = backend.array(trust, "float64")
    for call, name in (
        (lambda **o: repair_rows(given.t, given.y, trust, **o), "repair_rows"),
        (lambda **o: adaptive_mcld_loss(given.t, given.t, given.y, reliability=trust, **o),
         "adaptive_mcld_loss"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}: reliability needs finite numbers; got .* 2"):
            call()
        assert np.isfinite(backend.to_numpy(call(where=where))).all()


NUMBERS: dict[str, tuple[Callable[[Given, Any], Any], str, tuple[float, ...]]] = {
    "reliability_weights, temperature": (
        lambda g, x: reliability_weights(g.t, g.y, temperature=x), "temperature", (0.0, -1.0)),
    "reliability_weights, strength": (
        lambda g, x: reliability_weights(g.t, g.y, strength=x), "strength", (-0.5, 1.5)),
    "repair_rows, smoothing": (
        lambda g, x: repair_rows(g.t, g.y, g.r, smoothing=x), "smoothing", (-0.5, 1.5)),
    "outlier_weights, cutoff": (
        lambda g, x: outlier_weights(g.t, g.y, cutoff=x), "cutoff", (0.0, 3.0)),
    "bounded_loss, q": (lambda g, x: bounded_loss(g.losses, x), "q", (-1.0,)),
    "ensemble, temperatures": (
        lambda g, x: ensemble([g.t, g.t], temperatures=[1.0, x]), "temperatures[1]", (0.0, -1.0)),
    "TeacherQuality.update, decay": (
        lambda g, x: g.quality.update(g.t, g.y, decay=x), "decay", (-0.5, 1.5)),
    "mcld_loss, progress": (
        lambda g, x: adaptive_mcld_loss(g.t, g.t, g.y, reliability=g.r, progress=x),
        "progress", (-1.0, 3.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_one_number_of_a_range_is_that(backend: Framework, name: str) -> None:
    """None, text, NaN, infinity, what is out of range (as an array too) and vectors are errors."""
    call, argument, outside = NUMBERS[name]
    function = name.split(",")[0]
    for bad in (None, "1", [0.5, 0.5]):
        case = (lambda g: call(g, bad), TypeError, f"{function}: {argument} needs a finite number")  # noqa: B023
        refused(backend, case)
    for number in (np.nan, np.inf, *outside):
        text = f"{function}: {argument} needs a finite number"
        refused(backend, (lambda g: call(g, number), ValueError, text))  # noqa: B023
        refused(backend, (lambda g: call(g, g.array(number)), ValueError, text))  # noqa: B023
    text = f"{function}: {argument} needs one number; got shape (6,)"
    refused(backend, (lambda g: call(g, g.r), ValueError, text))


PYTHON_NUMBERS: dict[str, Callable[[Given, Any], Any]] = {
    "quality_weights: power": lambda g, x: quality_weights([g.quality], x),
}


@pytest.mark.parametrize("name", PYTHON_NUMBERS)
def test_an_exponent_and_the_like_is_one_number(backend: Framework, name: str) -> None:
    call = PYTHON_NUMBERS[name]
    refused(backend, (lambda g: call(g, None), TypeError, f"{name} needs a finite number"))
    refused(backend, (lambda g: call(g, np.nan), ValueError, f"{name} needs a finite number"))
    refused(backend, (lambda g: call(g, -1.0), ValueError, f"{name} needs a finite number"))


WEIGHTS: dict[str, Case] = {
    "infinite": (
        lambda g: ensemble([g.t, g.t], weights=[1.0, np.inf]), ValueError,
        "ensemble: weights[1] needs a finite number ≥ 0; got inf"),
    "NaN": (
        lambda g: ensemble([g.t], weights=[np.nan]), ValueError,
        "ensemble: weights[0] needs a finite number ≥ 0; got nan"),
    "an infinite entry": (
        lambda g: ensemble([g.t], weights=[g.array([1, 1, np.inf, 1, 1, 1.0])]), ValueError,
        "ensemble: weights[0] needs finite numbers ≥ 0; got inf in row 2"),
    "None": (
        lambda g: ensemble([g.t], weights=[None]), TypeError,
        "ensemble: weights[0] needs an array of numbers; got None"),
    "one number for all": (
        lambda g: ensemble([g.t], weights=2.0), TypeError,
        "ensemble: weights needs a list with one entry a teacher; got 2.0"),
    "another batch": (
        lambda g: ensemble([g.t], weights=[g.array([1.0, 1.0])]), ValueError,
        "ensemble: weights[0] needs shape (6,)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_weights_of_an_ensemble_are_finite_numbers(backend: Framework, name: str) -> None:
    refused(backend, WEIGHTS[name])


@pytest.mark.parametrize("traced", [False, True], ids=["number", "array"])
def test_a_loss_below_zero_has_no_bound(differentiable: Framework, traced: bool) -> None:
    """Where it can be read it is refused; where it cannot it stays the loss: no overflow."""
    backend, q = differentiable, 0.5
    given = backend.array(np.asarray(q), "float64") if traced else q
    rows = np.array([1.0, -5000.0, 0.0])
    with pytest.raises(ValueError, match=r"rows needs losses ≥ 0; got -5000.0 in row 1"):
        bounded_loss(backend.array(rows, "float64"), given)
    where = backend.array(np.array([True, False, True]))
    dropped = bounded_loss(backend.array(rows, "float64"), given, where=where, reduction="none")
    bound = (1.0 - np.exp(-q)) / q
    assert_value(backend.to_numpy(dropped), [bound, 0.0, 0.0])
    compiled = backend.jit(lambda x: bounded_loss(x, given, reduction="none"))
    assert_value(backend.to_numpy(compiled(backend.array(rows, "float64"))), [bound, -5000.0, 0.0])


def test_a_loss_of_zero_may_be_rounded_below_it(differentiable: Framework) -> None:
    rows = np.array([-1e-6, 0.0, 1e-6])
    value, gradient = differentiable.value_and_grad(
        lambda x: bounded_loss(x, 0.5, reduction="sum"), rows
    )
    assert_value(value, 0.0)
    assert_value(gradient, np.exp(-0.5 * np.maximum(rows, 0.0)))


KINDS: dict[str, Case] = {
    "quality_weights, accuracies": (
        lambda g: quality_weights([0.5, 0.5]), TypeError,
        "quality_weights: qualities[0] needs a TeacherQuality; got float"),
    "quality_weights, one": (
        lambda g: quality_weights(None), TypeError,
        "quality_weights: qualities needs a list with one entry a teacher"),
    "reliability_weights, an accuracy": (
        lambda g: reliability_weights(g.t, g.y, 0.5), TypeError,
        "reliability_weights: quality needs a TeacherQuality; got float"),
    "reliability_weights, ignore_index": (
        lambda g: reliability_weights(g.t, g.y, ignore_index=None), TypeError,
        "reliability_weights: ignore_index needs an int; got None"),
    "TeacherQuality.merge": (
        lambda g: g.quality.merge(None), TypeError, "merge: other needs a TeacherQuality"),
    "TeacherQuality.empty": (
        lambda g: TeacherQuality.empty(True), TypeError, "classes needs an int ≥ 1; got True"),
    "ensemble, None": (
        lambda g: ensemble(None), TypeError, "ensemble: logits_list needs a list"),
    "ensemble, an entry": (
        lambda g: ensemble([g.t, None]), TypeError,
        "logits_list[1] needs an array of numbers; got None"),
    "ensemble, no classes": (
        lambda g: ensemble([g.t[:, :0]]), ValueError, "logits_list[0] needs at least one class"),
    "reliability_weights, None": (
        lambda g: reliability_weights(None, g.y), TypeError, "teacher_logits needs an array"),
    "repair_rows, None": (
        lambda g: repair_rows(g.t, g.y, None), TypeError,
        "reliability needs an array of numbers; got None"),
    "repair_rows, a matrix": (
        lambda g: repair_rows(g.t, g.y, g.t), ValueError, "reliability needs shape (6,)"),
    "adaptive_mcld_loss, None": (
        lambda g: adaptive_mcld_loss(g.t, g.t, g.y, reliability=None), TypeError,
        "adaptive_mcld_loss: reliability needs an array of numbers; got None"),
    "adaptive_mcld_loss, the class": (
        lambda g: adaptive_mcld_loss(g.t, g.t, g.y, reliability=g.r, config=MCLDConfig), TypeError,
        "adaptive_mcld_loss: config needs an MCLDConfig; got the class MCLDConfig"),
    "adaptive_mcld_loss, normalizer": (
        lambda g: adaptive_mcld_loss(
            g.t, g.t, g.y, reliability=g.r, keys=TeacherKeys(g.t, g.y, normalizer=-1.0)),
        ValueError,
        "mcld_loss: keys.normalizer needs a finite number ≥ 0; got -1.0"),
    "bounded_loss, None": (
        lambda g: bounded_loss(None, 0.5), TypeError, "bounded_loss: rows needs an array"),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_what_an_argument_is_not(backend: Framework, name: str) -> None:
    refused(backend, KINDS[name])


EMPTY: dict[str, Callable[[Given], Any]] = {
    "reliability_weights": lambda g: reliability_weights(g.t[:0], g.y[:0]),
    "repair_rows": lambda g: repair_rows(g.t[:0], g.y[:0], g.r[:0]),
    "outlier_weights": lambda g: outlier_weights(g.t[:0], g.y[:0]),
    "adaptive": lambda g: adaptive_mcld_loss(g.t[:0], g.t[:0], g.y[:0], reliability=g.r[:0]),
    "bounded": lambda g: bounded_loss(g.losses[:0], 0.5),
    "ensemble": lambda g: ensemble([g.t[:0], g.t[:0]]),
    "quality": lambda g: TeacherQuality.from_logits(g.t[:0], g.y[:0]).rows,
}


@pytest.mark.parametrize("name", EMPTY)
def test_of_no_rows_every_result_is_zero_or_empty(backend: Framework, name: str) -> None:
    found = EMPTY[name](Given(backend))
    assert backend.owns(found)
    assert_zero(backend.to_numpy(found))

"""What the functions of `teachers` refuse, and that each error says what came and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig
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
    with pytest.raises(TypeError, match=f"{name}.*soft labels; got None. Pass the true labels"):
        NEEDS_LABELS[name](Given(backend))


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


NUMBERS: dict[str, tuple[Callable[[Given, Any], Any], tuple[float, ...]]] = {
    "reliability_weights: strength": (
        lambda g, x: reliability_weights(g.t, g.y, strength=x), (-0.5, 1.5)),
    "outlier_weights: cutoff": (lambda g, x: outlier_weights(g.t, g.y, cutoff=x), (0.0, 3.0)),
    "bounded_loss: q": (lambda g, x: bounded_loss(g.losses, x), (-1.0,)),
    "ensemble: temperatures[1]": (
        lambda g, x: ensemble([g.t, g.t], temperatures=[1.0, x]), (0.0, -1.0)),
    "TeacherQuality.update: decay": (
        lambda g, x: g.quality.update(g.t, g.y, decay=x), (-0.5, 1.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_one_number_of_a_range_is_that(backend: Framework, name: str) -> None:
    """None, text, NaN, infinity, what is out of range (as an array too) and vectors are errors."""
    call, outside = NUMBERS[name]
    given = Given(backend)
    for bad in (None, "1", [0.5, 0.5]):
        with pytest.raises(TypeError, match=re.escape(f"{name} needs a finite number")):
            call(given, bad)
    for number in (np.nan, np.inf, *outside):
        for bad in (number, given.array(number)):
            with pytest.raises(ValueError, match=re.escape(f"{name} needs a finite number")):
                call(given, bad)
    with pytest.raises(ValueError, match=re.escape(f"{name} needs one number; got shape (6,)")):
        call(given, given.r)


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


CASES: list[tuple[Callable[[Given], Any], str]] = [
    (lambda g: ensemble([]), "one entry a teacher, one at least; got 0"),
    (lambda g: ensemble(None), "ensemble: logits_list needs a list"),
    (lambda g: ensemble([g.t, None]), "logits_list[1] needs an array of numbers; got None"),
    (lambda g: ensemble([g.t[:, :0]]), "logits_list[0] needs at least one class"),
    (lambda g: ensemble([g.t, g.t[:, :3]]), "arrays of one shape"),
    (lambda g: ensemble([g.t], space="log"), "probability, logits; got 'log'"),
    (lambda g: ensemble([g.t], weights=2.0), "weights needs a list, one entry a teacher"),
    (lambda g: ensemble([g.t], weights=[1, 2]), "one entry a teacher, 1; got 2"),
    (lambda g: ensemble([g.t], weights=[-1]), "needs finite numbers ≥ 0; got -1.0 in row 0"),
    (lambda g: ensemble([g.t], weights=[g.array([1, 1, np.inf, 1, 1, 1.0])]),
     "weights[0] needs finite numbers ≥ 0; got inf in row 2"),
    (lambda g: ensemble([g.t], weights=[g.array([1.0, 1.0])]), "weights[0] needs shape (6,)"),
    (lambda g: quality_weights([g.quality], power=-1), "power needs a finite number ≥ 0; got -1"),
    (lambda g: quality_weights([0.5]), "qualities[0] needs a TeacherQuality; got float"),
    (lambda g: quality_weights(None), "qualities needs a list, one entry a teacher"),
    (lambda g: g.quality.update(g.t[:, :3], 0 * g.y), "needs 4 classes, as this quality counts"),
    (lambda g: TeacherQuality.empty(0), "classes needs an int ≥ 1; got 0"),
    (lambda g: reliability_weights(g.t[:, :3], 0 * g.y, g.quality), "of 3 classes; got 4"),
    (lambda g: reliability_weights(g.t[0], g.y), "two axes (batch, classes)"),
    (lambda g: reliability_weights(None, g.y), "teacher_logits needs an array"),
    (lambda g: reliability_weights(g.t, g.y, 0.5), "quality needs a TeacherQuality; got float"),
    (lambda g: reliability_weights(g.t, g.y, ignore_index=None), "ignore_index needs an int"),
    (lambda g: repair_rows(g.t, g.y, None), "reliability needs an array of numbers; got None"),
    (lambda g: repair_rows(g.t, g.y, g.t), "reliability needs shape (6,)"),
    (lambda g: adaptive_mcld_loss(g.t, g.t, g.y, reliability=g.r, config=MCLDConfig),
     "adaptive_mcld_loss: config needs an MCLDConfig; got the class MCLDConfig"),
    (lambda g: adaptive_mcld_loss(g.t, g.t, g.y, reliability=g.r, progress=3.0),
     "mcld_loss: progress needs a finite number in 0 … 1; got 3.0"),
    (lambda g: bounded_loss(None, 0.5), "bounded_loss: rows needs an array"),
    (lambda g: bounded_loss(g.t, 1.0), "a loss with reduction='none'; got shape (6, 4)"),
    (lambda g: bounded_loss(g.losses, 1.0, reduction="median"), "got 'median'"),
    (lambda g: bounded_loss(g.losses, 1.0, sample_weight=-g.r), "numbers ≥ 0; got -0.2 in row 1"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "text"), CASES, ids=[text for _, text in CASES])
def test_what_an_argument_is_not(backend: Framework, call: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        call(Given(backend))


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

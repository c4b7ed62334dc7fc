"""Errors about single values and kinds of arguments, where they can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import (
    MCLDConfig,
    TeacherBank,
    category_wise,
    check_finite,
    dkd_loss,
    instance_wise,
    kd_loss,
    mcld_loss,
    sample_wise,
)
from mcld_core.extensions.teachers import adaptive_mcld_loss
from tests.core.arguments.test_errors import CASE, call, explained
from tests.frameworks import Framework


@pytest.mark.parametrize("loss", [mcld_loss, instance_wise, category_wise])
def test_keys_of_another_kind(backend: Framework, loss: Any) -> None:
    bank = TeacherBank.from_logits(backend.array(CASE.teacher))
    facts = ("keys", "TeacherBank", "bank.keys(teacher_logits, labels)")
    with explained(TypeError, loss.__name__, *facts):
        call(backend, loss, keys=bank)
    for keys in (np.zeros((9, 4)), (CASE.teacher, CASE.labels)):
        facts = ("keys needs TeacherKeys", "TeacherKeys(logits, labels)")
        with explained(TypeError, loss.__name__, *facts):
            call(backend, loss, keys=keys)
    with explained(TypeError, "mcld_loss", "keys needs TeacherKeys", "TeacherBank"):
        call(backend, adaptive_mcld_loss, keys=bank, reliability=np.ones(5))


@pytest.mark.parametrize("loss", [mcld_loss, sample_wise, kd_loss, dkd_loss])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_sample_weights_that_are_not_finite(backend: Framework, loss: Any, bad: float) -> None:
    weight = np.array([1.0, 0.0, bad, 1.0, 1.0])
    for sample_weight in (weight, weight.tolist()):
        with explained(ValueError, loss.__name__, "sample_weight", "finite", f"{bad} in row 2"):
            call(backend, loss, sample_weight=sample_weight)
    where = np.array([True, True, False, True, True])
    assert np.isfinite(float(call(backend, loss, sample_weight=weight, where=where)))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_progress_that_is_not_finite(backend: Framework, bad: float) -> None:
    for progress in (bad, np.float32(bad), np.array(bad), backend.array(bad)):
        with explained(ValueError, "mcld_loss", "progress needs a finite number", str(bad)):
            call(backend, mcld_loss, progress=progress)
    for no_number in (None, "0.5", [0.5]):
        with explained(TypeError, "mcld_loss", "progress needs a finite number", repr(no_number)):
            call(backend, mcld_loss, progress=no_number)
    expected = float(call(backend, mcld_loss, progress=0.25))
    for progress in (np.float32(0.25), np.array(0.25), backend.array(0.25)):
        assert float(call(backend, mcld_loss, progress=progress)) == expected


def test_check_finite_says_what_the_losses_say(backend: Framework) -> None:
    """The same text for the same fault, but for the name in front."""
    faults: list[tuple[tuple[Any, ...], type[Exception]]] = [
        ((None, np.zeros((5, 7))), ValueError),
        ((None, np.zeros((6, 4))), ValueError),
        ((np.zeros((2, 5, 4)),), ValueError),
        ((np.zeros((5, 0)), np.zeros((5, 0))), ValueError),
        ((None, np.zeros((5, 4), np.int64)), TypeError),
        ((None, None, np.zeros((5, 3))), ValueError),
        ((None, None, np.zeros(3, np.int64)), ValueError),
        ((None, None, np.zeros(5)), TypeError),
    ]
    for arguments, error in faults:
        texts = []
        for function in (mcld_loss, check_finite):
            with pytest.raises(error) as caught:
                call(backend, function, *arguments)
            texts.append(str(caught.value).removeprefix(f"{function.__name__}: "))
        assert texts[0] == texts[1]
    with pytest.raises(ValueError, match="MCLDConfig: similarity needs one of") as caught:
        MCLDConfig(similarity="euclid")
    with explained(ValueError, "check_finite", str(caught.value).removeprefix("MCLDConfig: ")):
        call(backend, check_finite, similarity="euclid")


def test_check_finite_passes_what_both_sides_mask(backend: Framework) -> None:
    masked = np.where(np.arange(4) == 3, -np.inf, CASE.student)  # labels are 0 … 2
    assert call(backend, check_finite, masked, masked) is None
    with explained(ValueError, "check_finite", "student_logits has -inf in row 0, class 3"):
        call(backend, check_finite, masked)
    with explained(ValueError, "check_finite", "student_logits has -inf in row 0, class 3"):
        call(backend, check_finite, masked, masked, similarity="cosine")

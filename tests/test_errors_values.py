"""Errors about single values and kinds of arguments, where they can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import (
    TeacherBank,
    category_wise,
    dkd_loss,
    instance_wise,
    kd_loss,
    mcld_loss,
    sample_wise,
)
from mcld_core.extensions.teachers import adaptive_mcld_loss
from tests.frameworks import Framework
from tests.test_errors import CASE, call, explained


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
    with explained(TypeError, "adaptive_mcld_loss", "keys needs TeacherKeys", "TeacherBank"):
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

"""Errors about single values and kinds of arguments, where they can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import TeacherBank, category_wise, instance_wise, mcld_loss
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

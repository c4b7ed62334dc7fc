"""Numbers of NumPy, as a sweep or a file of settings gives them, go where Python's go."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, TeacherKeys, instance_wise
from tests.cases import make_case, make_keys, value
from tests.frameworks import Framework


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64, np.uint8, np.asarray])
def test_a_configuration_holds_numbers_of_python(number: Any) -> None:
    """So it is hashable, a weight of 0 skips its term, and the values are checked."""
    found = MCLDConfig(
        weight_sample=number(0),
        temperature=number(2),
        target_mask=np.bool_(True),
        ignore_index=np.int64(-1),
        block_size=np.int64(64),
    )
    expected = MCLDConfig(weight_sample=0, temperature=2, ignore_index=-1, block_size=64)
    assert found == expected
    assert hash(found) == hash(expected)
    for name in ("weight_sample", "temperature"):
        assert type(getattr(found, name)) in (int, float)
    assert found.target_mask is True


@pytest.mark.parametrize("number", [np.int64, np.int32, np.uint8, np.asarray])
def test_own_start_is_a_number_of_numpy(backend: Framework, number: Any) -> None:
    case = make_case(173)
    keys = make_keys(case, own_start=3)
    expected = value(backend, instance_wise, case.but(keys=keys))
    assert (
        value(backend, instance_wise, case.but(keys=dataclasses.replace(keys, own_start=number(3))))
        == expected
    )
    keys = TeacherKeys(backend.array(keys.logits), own_start=number(5))
    arrays = (backend.array(x) for x in (case.student, case.teacher, case.labels))
    with pytest.raises(ValueError, match=r"keys.own_start .*got own_start 5 with batch 5"):
        instance_wise(*arrays, keys=keys)

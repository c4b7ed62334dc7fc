"""Labels and sample ids of 64 bits: none is cut to 32, where 2**32 + 1 would be 1."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from mcld_core import (
    TeacherBank,
    TeacherKeys,
    category_wise,
    dkd_loss,
    instance_wise,
    kd_loss,
    mcld_loss,
    rld_loss,
)
from tests.cases import make_case, value
from tests.frameworks import Framework, only
from tests.tolerance import assert_value, assert_zero

WIDE = 2**32


@pytest.mark.parametrize("kind", ["plain", "tensor"])
def test_bank_ids(backend: Framework, kind: str) -> None:
    """A bank row is left out where its id is in the batch, and only there."""
    ids = np.array([0, 1, 2, 7, WIDE, WIDE + 1, 2**31, 2**62 + 1, 2**31 - 1])
    teacher = backend.array(np.zeros((9, 3)))
    given = backend.array(ids) if kind == "tensor" else ids
    bank = TeacherBank.from_logits(teacher, index=given, like=teacher)
    assert backend.to_numpy(bank.ids)[:4].tolist() == [0, 1, 2, 7]
    assert len(set(backend.to_numpy(bank.ids).tolist())) == 9
    for row in range(9):
        own = given[row : row + 1]
        where = backend.to_numpy(bank.keys(teacher[:1], index=own).where)[1:]
        np.testing.assert_array_equal(where, np.arange(9) != row)
        pushed = TeacherBank.empty(1, 3, teacher).push(teacher[:1], index=own)
        assert int(pushed.ids[0]) == int(bank.ids[row])
    assert TeacherBank.from_logits(np.zeros((1, 3)), index=np.array([2**31], "uint32")).ids[0] >= 0


def test_negative_ids_are_unknown(backend: Framework) -> None:
    rows = backend.array(np.zeros((2, 3)))
    ids = backend.array(np.array([-WIDE + 1, 1]))
    bank = TeacherBank.from_logits(rows, index=ids)
    np.testing.assert_array_equal(bank.keys(rows, index=ids).where, [True, True, True, False])


@pytest.mark.parametrize(
    ("label", "dtype"),
    [(-2, "int64"), (4, "int32"), (2**31 - 1, "int32"), (156, "uint8"), (WIDE + 1, "uint64")],
)
def test_a_label_of_no_class_that_cannot_be_read_is_no_target(
    backend: Framework, monkeypatch: pytest.MonkeyPatch, label: int, dtype: str
) -> None:
    """In a trace, on an accelerator. Below 0 it is no id, either, that rows could share."""
    monkeypatch.setattr(f"mcld_core.backends.{backend.name}.host_values", lambda x: None)
    case = make_case(181).but(labels=np.full(5, label, dtype))

    def rows(loss: Any, **options: Any) -> np.ndarray:
        return value(backend, loss, case, reduction="none", **options)

    only_ce = {"weight_instance": 0, "weight_sample": 0, "weight_category": 0, "weight_ce": 1}
    assert_zero(np.stack([rows(rld_loss), rows(mcld_loss, settings=only_ce)]))
    assert_value(rows(dkd_loss, beta=1.0), rows(kd_loss))
    if label < 0:
        assert_zero(rows(category_wise))
        assert_value(rows(instance_wise), rows(instance_wise, settings={"target_mask": False}))


def test_a_dropped_row_may_have_any_label(backend: Framework) -> None:
    case = make_case(181).but(where=np.array([True, True, False, True, True]))
    expected = value(backend, mcld_loss, case)
    for label in (WIDE + 1, -WIDE - 100, 2**62):
        labels = np.where(case.where, case.labels, label)
        assert value(backend, mcld_loss, case.but(labels=labels)) == expected
        arrays = [backend.array(x) for x in (case.student, case.teacher, case.labels)]
        keys = TeacherKeys(arrays[1], backend.array(labels), backend.array(case.where))
        loss = category_wise(*arrays, keys=keys, where=backend.array(case.where))
        assert float(loss) == value(backend, category_wise, case)


@pytest.mark.parametrize("backend", only("jax"), indirect=True)
def test_jax_without_64_bits_says_so(backend: Framework) -> None:
    import jax

    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = jax.numpy.zeros((2, 3))
        bank = TeacherBank.from_logits(rows, index=np.array([1, 2**31 - 1]))
        assert bank.ids.dtype == "int32"
        with pytest.raises(ValueError, match=r"32 bits here; got 1 … 4294967297.*jax_enable_x64"):
            bank.push(rows, index=np.array([1, WIDE + 1]))
        with pytest.raises(ValueError, match="jax_enable_x64"):
            mcld_loss(rows, rows, np.array([1, WIDE + 1]))

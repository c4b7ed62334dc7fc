"""Labels and sample ids of 64 bits: none is cut to 32, where 2**32 + 1 would be 1."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from mcld_core import TeacherBank, TeacherKeys, category_wise, mcld_loss
from mcld_core.arguments import class_labels
from tests.cases import make_case, value
from tests.frameworks import Framework, only

WIDE = 2**32


@pytest.mark.parametrize("kind", ["plain", "tensor"])
def test_bank_ids(backend: Framework, kind: str) -> None:
    """A bank row is left out where its id is in the batch, and only there."""
    ids = np.array([0, 1, 2, 7, WIDE, WIDE + 1, 5 * WIDE + 1, 2**62 + 1, 2**31 - 1])
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


def test_negative_ids_are_unknown(backend: Framework) -> None:
    rows = backend.array(np.zeros((2, 3)))
    ids = backend.array(np.array([-WIDE + 1, 1]))
    bank = TeacherBank.from_logits(rows, index=ids)
    np.testing.assert_array_equal(bank.keys(rows, index=ids).where, [True, True, True, False])


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "uint64"])
def test_labels_that_cannot_be_read_wrap_to_no_class(backend: Framework, dtype: str) -> None:
    """Those of a dropped row, of a trace, of an accelerator: no check sees them first."""
    from mcld_core.backends import backend_for

    values = np.array([0, 3, 4, 156, WIDE + 1][: 4 if dtype in ("int32", "uint8") else 5], dtype)
    labels = backend.array(values)
    found, counts = class_labels(backend_for("test", labels), labels, 4, -100)
    assert backend.to_numpy(found).tolist() == [0, 3, -1, -1, -1][: len(values)]
    assert backend.dtype(found) == "int32"
    assert backend.to_numpy(counts).all()


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

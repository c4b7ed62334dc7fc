"""What a bank stores of values at the edges of its dtypes."""

from __future__ import annotations

import numpy as np
import pytest

from mcld_core import TeacherBank, mcld_loss
from tests.cases import make_case
from tests.core.bank.banks import arrays
from tests.frameworks import Framework, only


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_holds_no_infinity_that_was_none(backend: Framework, dtype: str) -> None:
    """-inf is a class of probability 0; 7e4, or the lowest float32, is a logit."""
    if dtype not in backend.dtypes:
        return
    lowest = float(np.finfo("float32").min)
    rows, labels = arrays(backend, (np.array([[7e4, 0, lowest, -np.inf]]), np.array([0])))
    bank = TeacherBank.empty(1, 4, like=backend.array(np.zeros(1), dtype)).push(rows, labels)
    stored = backend.to_numpy(bank.vectors)
    expected = [[65504, 0, -65504, -np.inf]]
    if dtype == "bfloat16":
        expected = [[70144, 0, -float.fromhex("0x1.fep127"), -np.inf]]
    np.testing.assert_array_equal(stored, expected)
    case = make_case(66)
    student, teacher, own = arrays(backend, (case.student, case.teacher, case.labels))
    assert np.isfinite(float(mcld_loss(student, teacher, own, keys=bank.keys(teacher, own))))


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
@pytest.mark.parametrize(
    ("dtype", "largest"), [("float16", 65504), ("bfloat16", 3.39e38), ("float32", 3.403e38)]
)
@pytest.mark.parametrize("given", [("float16", 6e4), ("bfloat16", 3e38), ("float64", 1e300)])
def test_rows_of_any_dtype_enter_a_bank_of_any(
    backend: Framework, dtype: str, largest: float, given: tuple[str, float]
) -> None:
    rows = backend.array(np.array([[given[1], -np.inf]]), given[0])
    like = backend.array(np.zeros(1), dtype)
    bank = TeacherBank.empty(1, 2, like=like).push(rows, backend.array(np.zeros(1, int)))
    finite = pytest.approx(min(given[1], largest), rel=2**-8)
    assert bank.vectors[0].tolist() == [finite, -np.inf]


@pytest.mark.parametrize("backend", only("numpy", "torch"), indirect=True)
@pytest.mark.parametrize("kind", ["plain", "tensor"])
@pytest.mark.parametrize("labels", ["int", "soft"])
def test_a_bank_keeps_its_rows_when_the_callers_change(
    backend: Framework, labels: str, kind: str
) -> None:
    """Arrays of TensorFlow and JAX do not change; those that can are copied."""
    case = make_case(67, labels=labels)
    given = [
        case.teacher.astype("float32"),
        case.labels.astype("float32" if labels == "soft" else "int32"),
        np.arange(5, dtype="int32"),
    ]
    like = backend.array(np.zeros(1), "float32")
    if kind == "tensor":
        given = [backend.array(x.copy()) for x in given]
    bank = TeacherBank.from_logits(*given, like=like)
    stored = [backend.to_numpy(x).copy() for x in bank]
    for x in given:
        x[:] = 1
    for actual, expected in zip(bank, stored, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(actual), expected)

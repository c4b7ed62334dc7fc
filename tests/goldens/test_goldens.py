"""Every golden, recomputed: values by NumPy, gradients by PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

from tests.frameworks import Framework, only
from tests.goldens.cases import CASES, FILE, GONE, outcome
from tests.tolerance import assert_gradient, assert_value

PAIRS = [
    (case, backend)
    for backend in only("numpy", "torch")
    for case, (name, _) in CASES.items()
    if name != "exported" and (backend == "torch" or name != "resumed")
]


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    """Return all arrays of the file by name."""
    return dict(np.load(FILE))


@pytest.mark.parametrize(("case", "backend"), PAIRS, indirect=["backend"])
def test_golden(case: str, backend: Framework, goldens: dict[str, np.ndarray]) -> None:
    assert_golden(case, backend, goldens)


def assert_golden(case: str, backend: Framework, goldens: dict[str, np.ndarray]) -> None:
    given = {x.removeprefix("in/"): y for x, y in goldens.items() if x.startswith("in/")}
    expected = {
        x.removeprefix(f"{case}/"): y
        for x, y in goldens.items()
        if x.startswith(f"{case}/") and x not in GONE
    }
    if backend.name == "numpy":
        expected = {x: y for x, y in expected.items() if x.startswith("value")}
    found = outcome(case, backend, given)
    assert found.keys() == expected.keys()
    dtype = "float32" if case.startswith("exported") else "float64"
    for part, values in expected.items():
        check = assert_value if part.startswith("value") else assert_gradient
        check(found[part], values, dtype, scale=16.0)  # |S| up to s · t, and to a cosine over 0.1

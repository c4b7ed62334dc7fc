"""What looks wrong about a batch: `first_look` says it for the adapters, a loss never does."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.adapters import first_look
from tests.cases import logits
from tests.frameworks import Framework, only

ROWS, CLASSES = 4, 3
LABELS = np.array([0, 1, -100, 2])
GOOD = logits(np.random.default_rng(0), ROWS, CLASSES)
PROBABILITIES = np.exp(GOOD) / np.exp(GOOD).sum(1, keepdims=True)


def changed(value: float, row: int = 1, column: int = 2) -> np.ndarray:
    """Return the logits with one entry replaced."""
    rows = GOOD.copy()
    rows[row, column] = value
    return rows


def said(student: Any, teacher: Any, labels: Any = None, where: Any = None, **settings: Any) -> Any:
    """Return what the first look warns of; None where it could not look."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        looked = first_look("loss", student, teacher, labels, where, MCLDConfig(**settings), 1)
    return [str(warning.message).removeprefix("loss: ") for warning in found] if looked else None


CASES: list[tuple[str, np.ndarray, np.ndarray, dict[str, Any], list[str]]] = [
    ("good", GOOD, GOOD, {}, []),
    ("teacher", GOOD, PROBABILITIES, {}, ["every row of teacher_logits is ≥ 0 and sums to 1"]),
    ("student", PROBABILITIES, GOOD, {}, ["every row of student_logits is ≥ 0 and sums to 1"]),
    ("a mean of 1 / classes", GOOD, PROBABILITIES * 2, {}, []),
    ("negative entries", GOOD, 3 * PROBABILITIES - 2 / 3, {}, []),
    ("nan", changed(np.nan), GOOD, {}, ["student_logits has nan in row 1, class 2. Mend"]),
    ("inf", GOOD, changed(np.inf), {}, ["teacher_logits has inf in row 1, class 2"]),
    ("both", changed(np.inf), changed(np.nan), {}, ["student_logits has inf", "teacher_logits ha"]),
    ("ignored", changed(np.nan, 2), GOOD, {}, []),
    ("an absent class", GOOD, changed(-np.inf), {}, []),
    ("absent in both", changed(-np.inf), changed(-np.inf), {}, []),
    ("absent at the label", GOOD, changed(-np.inf, 1, 1), {}, ["teacher_logits has -inf in row 1"]),
    ("cosine", GOOD, changed(-np.inf), {"similarity": "cosine"}, ["teacher_logits has -inf in ro"]),
    ("dropped", changed(np.nan), GOOD, {"where": np.array([True, False, True, True])}, []),
    ("no labels", GOOD, changed(np.nan, 2), {"labels": None}, ["teacher_logits has nan in row 2"]),
    ("soft", GOOD, changed(-np.inf, 1, 1), {"labels": np.eye(3)[[0, 2, 1, 1]]}, []),
    ("all dropped", PROBABILITIES, PROBABILITIES, {"where": np.zeros(ROWS, bool)}, []),
    ("no rows", GOOD[:0], GOOD[:0], {"labels": LABELS[:0]}, []),
    ("one class", np.ones((ROWS, 1)), np.ones((ROWS, 1)), {"labels": None}, []),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_doubts(backend: Framework, case: Any) -> None:
    _, student, teacher, options, expected = case
    options = {"labels": LABELS} | options
    options = {k: x if k == "similarity" else backend.array(x) for k, x in options.items()}
    for dtype in backend.dtypes:
        rows = (backend.array(student, dtype), backend.array(teacher, dtype))
        found = said(*rows, **options)
        assert found is not None
        assert len(found) == len(expected)
        for text, start in zip(found, expected, strict=True):
            assert text.startswith(start)


def test_probabilities_of_many_classes_in_half_precision(backend: Framework) -> None:
    for dtype in backend.dtypes:
        rows = np.exp(np.random.default_rng(1).normal(size=(8, 1000)))
        rows = backend.array(rows / rows.sum(1, keepdims=True), dtype)
        found = said(rows, backend.array(np.ones((8, 1000)), dtype))
        assert found is not None
        assert "pass the logarithm" in found[0]
        assert len(found) == 1


@pytest.mark.parametrize("backend", only("tensorflow", "jax"), indirect=True)
def test_traced_values_are_not_looked_at(backend: Framework) -> None:
    found = []

    def loss(student: Any, teacher: Any) -> Any:
        found.append(said(student, teacher))
        return mcld_loss(student, teacher)

    backend.jit(loss)(backend.array(GOOD), backend.array(PROBABILITIES))
    assert set(found) == {None}

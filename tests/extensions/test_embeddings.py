"""`embedding_contrast`: sample weights, soft labels with a mask, and its errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core.extensions.multimodal import embedding_contrast
from tests.frameworks import Framework
from tests.tolerance import assert_value

BATCH, WIDTH = 5, 3
RNG = np.random.default_rng(4)
STUDENT, TEACHER = RNG.normal(size=(2, BATCH, WIDTH))
LABELS = np.array([0, 1, 0, 2, 1])
WEIGHT = np.array([0.5, 0.0, 2.0, 1.0, 0.25])


def loss(backend: Framework, labels: Any = None, **options: Any) -> np.ndarray:
    student, teacher = (backend.array(x, "float64") for x in (STUDENT, TEACHER))
    found = embedding_contrast(student, teacher, backend.array(labels, "float64"), **options)
    return backend.to_numpy(found)


def test_a_weight_scales_its_row_and_the_mean(backend: Framework) -> None:
    rows = loss(backend, LABELS, reduction="none")
    weights = {"sample_weight": backend.array(WEIGHT, "float64")}
    assert_value(loss(backend, LABELS, reduction="none", **weights), rows * WEIGHT, scale=15.0)
    mean = (rows * WEIGHT).sum() / WEIGHT.sum()
    assert_value(loss(backend, LABELS, **weights), mean, scale=15.0)


def test_dropped_rows_with_soft_labels_are_removed_rows(backend: Framework) -> None:
    where = np.array([True, True, False, True, True])
    soft = np.eye(3)[LABELS]
    soft[2] = np.nan
    found = loss(backend, soft, where=backend.array(where), reduction="none")
    student, teacher = (backend.array(x[where], "float64") for x in (STUDENT, TEACHER))
    labels = backend.array(soft[where], "float64")
    fewer = embedding_contrast(student, teacher, labels, reduction="none")
    assert_value(found[where], backend.to_numpy(fewer), scale=15.0)
    assert found[2] == 0


def test_a_dropped_row_may_have_any_weight(backend: Framework) -> None:
    where = np.array([True, False, True, True, True])
    for value in (np.nan, np.inf, -1.0):
        odd = np.where(where, WEIGHT, value)
        found, reference = (
            loss(
                backend,
                LABELS,
                where=backend.array(where),
                sample_weight=backend.array(weight, "float64"),
            )
            for weight in (odd, WEIGHT)
        )
        assert_value(found, reference, scale=15.0)


def test_ids_of_any_size_and_width(backend: Framework) -> None:
    reference = loss(backend, LABELS)
    for ids in (LABELS + 3_000_000_000, LABELS.astype("uint8"), LABELS + 2**40):
        assert_value(loss(backend, ids), reference, scale=15.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": np.ones(BATCH)}, r"where needs dtype bool \(True = keep\); got float"),
        ({"labels": LABELS / 1.0}, "labels needs an integer dtype; got float"),
        ({"sample_weight": np.ones(3)}, "sample_weight"),
        ({"sample_weight": np.arange(5) - 1.0}, r"sample_weight needs numbers ≥ 0; got -1\.0"),
        ({"temperature": 0.0}, "temperature needs a number > 0; got 0.0"),
    ],
)
def test_errors_say_what_came(backend: Framework, options: dict[str, Any], message: str) -> None:
    arrays = {
        name: backend.array(x, "float64") if isinstance(x, np.ndarray) else x
        for name, x in options.items()
    }
    student, teacher = (backend.array(x, "float64") for x in (STUDENT, TEACHER))
    with pytest.raises((TypeError, ValueError), match=f"embedding_contrast: {message}"):
        embedding_contrast(student, teacher, **arrays)

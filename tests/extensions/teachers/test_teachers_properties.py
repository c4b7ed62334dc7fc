"""What the teachers' functions promise for every input, by hypothesis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mcld_core.extensions.teachers import TeacherQuality, ensemble, reliability_weights
from tests.core.formulas.test_properties import eighths
from tests.extensions.teachers import teacher_oracles
from tests.frameworks import Framework
from tests.tolerance import assert_value

ROWS, CLASSES, COUNT = 4, 3, 3
LABELS = arrays(np.int64, ROWS, elements=st.integers(0, CLASSES - 1))
FOUR = arrays(np.int8, ROWS, elements=st.integers(0, 4)).map(lambda x: x / 4.0)
TEACHER = st.tuples(
    eighths((ROWS, CLASSES)),
    st.sampled_from([0.0, 0.5, 3.0]) | FOUR,  # a weight, or one a row
    st.none() | arrays(np.bool_, ROWS),
    st.sampled_from([0.5, 1.0, 4.0]),
)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("space", ["probability", "logits"])
@given(teachers=st.lists(TEACHER, min_size=COUNT, max_size=COUNT))
def test_an_ensemble_is_the_weighted_mean_of_the_teachers_present(
    backend: Framework, space: str, dtype: str, teachers: list[Any]
) -> None:
    logits, weights, where, temperatures = (list(x) for x in zip(*teachers, strict=True))
    content = [
        x if mask is None else np.where(mask[:, None], x, np.nan)  # what is missing cannot matter
        for x, mask in zip(logits, where, strict=True)
    ]
    found, present = ensemble(
        [backend.array(x, dtype) for x in content],
        weights=[w if isinstance(w, float) else backend.array(w, dtype) for w in weights],
        where=[backend.array(mask) for mask in where],
        temperatures=temperatures,
        space=space,
        return_where=True,
    )
    expected = teacher_oracles.ensemble(logits, weights, where, temperatures, space)
    assert backend.dtype(found) == dtype
    assert_value(backend.to_numpy(found), expected, dtype, scale=32.0)
    shares = [
        np.broadcast_to(w, ROWS) * (1 if mask is None else mask)
        for w, mask in zip(weights, where, strict=True)
    ]
    np.testing.assert_array_equal(backend.to_numpy(present), np.sum(shares, 0) > 0)


@given(
    teacher=eighths((ROWS, CLASSES)),
    labels=LABELS,
    seen=st.tuples(LABELS, LABELS),
    strength=st.sampled_from([0.0, 0.25, 1.0]),
    more=st.sampled_from([0.0, 0.125, 4.0]),
)
def test_reliability_lies_in_0_to_1_and_rises_with_the_label_and_falls_with_strength(
    backend: Framework, teacher: np.ndarray, labels: np.ndarray, seen: Any, strength: float,
    more: float,
) -> None:  # fmt: skip
    quality = TeacherQuality.from_logits(
        backend.array(9.0 * np.eye(CLASSES)[seen[0]]), backend.array(seen[1])
    )

    def weights(teacher: np.ndarray, strength: float) -> np.ndarray:
        given_arrays = backend.array(teacher, "float64"), backend.array(labels)
        found = reliability_weights(*given_arrays, quality, strength=strength)
        return backend.to_numpy(found)

    r = weights(teacher, strength)
    assert ((r >= 0) & (r <= 1)).all()
    surer = teacher + more * np.eye(CLASSES)[labels]
    assert (weights(surer, strength) >= r - 1e-15).all()
    assert (weights(teacher, min(1.0, strength + 0.5)) <= r + 1e-15).all()

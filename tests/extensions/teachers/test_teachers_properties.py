"""What the teachers' functions promise for every input, by hypothesis."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mcld_core.extensions.teachers import (
    TeacherQuality,
    bounded_loss,
    ensemble,
    reliability_weights,
)
from tests.core.formulas.test_properties import eighths
from tests.extensions.teachers import teacher_oracles
from tests.frameworks import Framework
from tests.oracles.rows import softmax
from tests.tolerance import assert_value

ROWS, CLASSES, COUNT = 4, 3, 3
SPACE = st.sampled_from(["probability", "logits"])
LABELS = arrays(np.int64, ROWS, elements=st.integers(0, CLASSES - 1))
FOUR = arrays(np.int8, ROWS, elements=st.integers(0, 4)).map(lambda x: x / 4.0)


@st.composite
def teachers(draw: st.DrawFn) -> list[tuple[np.ndarray, Any, np.ndarray, float]]:
    """Logits, a weight or (batch,) weights, the rows present and the temperature of each."""
    return [
        (
            draw(eighths((ROWS, CLASSES))),
            draw(st.sampled_from([0.0, 0.5, 3.0]) | FOUR),
            draw(arrays(np.bool_, ROWS)),
            draw(st.sampled_from([0.5, 1.0, 4.0])),
        )
        for _ in range(COUNT)
    ]


def joined(backend: Framework, given_teachers: Any, space: str) -> tuple[np.ndarray, np.ndarray]:
    logits, weights, where, temperatures = zip(*given_teachers, strict=True)
    found = ensemble(
        [backend.array(x, "float64") for x in logits],
        weights=[w if isinstance(w, float) else backend.array(w, "float64") for w in weights],
        where=[backend.array(mask) for mask in where],
        temperatures=list(temperatures),
        space=space,
        return_where=True,
    )
    mean, present = (backend.to_numpy(x) for x in found)
    return mean, present


@given(teacher=eighths((ROWS, CLASSES)), weights=st.tuples(FOUR, FOUR), space=SPACE)
def test_an_ensemble_of_one_teacher_many_times_is_that_teacher(
    backend: Framework, teacher: np.ndarray, weights: Any, space: str
) -> None:
    every = np.ones(ROWS, bool)
    given_teachers = [(teacher, weight, every, 1.0) for weight in (0.25, *weights)]
    mean, present = joined(backend, given_teachers, space)
    assert present.all()
    if space == "logits":
        assert_value(mean, teacher, scale=16.0)
    else:
        assert_value(np.exp(mean), np.array([softmax(row) for row in teacher]), scale=16.0)


@given(given_teachers=teachers(), order=st.permutations(range(COUNT)), space=SPACE)
def test_the_order_of_teachers_changes_nothing(
    backend: Framework, given_teachers: Any, order: list[int], space: str
) -> None:
    mean, present = joined(backend, given_teachers, space)
    other, other_present = joined(backend, [given_teachers[i] for i in order], space)
    assert_value(other, mean, scale=16.0)
    np.testing.assert_array_equal(other_present, present)


@given(given_teachers=teachers(), place=st.integers(0, COUNT), space=SPACE)
def test_a_teacher_that_is_absent_changes_nothing(
    backend: Framework, given_teachers: Any, place: int, space: str
) -> None:
    """Whether it has no row or no weight, and whatever it holds."""
    mean, present = joined(backend, given_teachers, space)
    absent = np.full((ROWS, CLASSES), np.nan), 3.0, np.zeros(ROWS, bool), 0.5
    unweighed = np.full((ROWS, CLASSES), 7.0), 0.0, np.ones(ROWS, bool), 0.5
    for one in (absent, unweighed):
        more = [*given_teachers[:place], one, *given_teachers[place:]]
        other, other_present = joined(backend, more, space)
        assert_value(other, mean, scale=16.0)
        np.testing.assert_array_equal(other_present, present)


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


@given(
    rows=arrays(np.int16, ROWS, elements=st.integers(0, 512)).map(lambda x: x / 16.0),
    q=st.sampled_from([1e-9, 1e-4, 0.01, 0.3, 1.0, 5.0]),
)
def test_a_bounded_loss_is_below_the_loss_and_goes_to_it_with_q(
    backend: Framework, rows: np.ndarray, q: float
) -> None:
    """``L − q L² / 2 ≤ (1 − exp(−q L)) / q ≤ min(L, 1 / q)``."""
    found = backend.to_numpy(bounded_loss(backend.array(rows, "float64"), q, reduction="none"))
    rounding = 1e-12 * np.maximum(rows, 1.0)
    assert (found <= np.minimum(rows, 1 / q) + rounding).all()
    assert (found >= rows - q * rows**2 / 2 - rounding).all()
    assert_value(found, teacher_oracles.bounded(rows, q))

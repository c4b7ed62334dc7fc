"""ClassMeans against loops over all rows that were seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import ClassMeans, MCLDConfig, TeacherBank, TeacherKeys, mcld_loss
from tests import oracles
from tests.cases import logits, make_case
from tests.core.bank.banks import CLASSES, arrays, batches
from tests.frameworks import Framework
from tests.tolerance import assert_value


def empty(backend: Framework, dtype: str = "float32") -> ClassMeans:
    return ClassMeans.empty(CLASSES, like=backend.array(np.zeros(1), dtype))


def key(row: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Return the key that a teacher's row is under the settings."""
    if settings.get("similarity", "probability") != "probability":
        return row
    exponents = np.exp(row / settings.get("key_temperature", 1.0))
    return exponents / exponents.sum()


def mean_of(seen: list[tuple[np.ndarray, int]], label: int) -> np.ndarray:
    """Return the mean key of a class, in a loop; NaN where it has none."""
    total, count = np.zeros(CLASSES), 0
    for vector, own in seen:
        if own == label:
            total, count = total + vector, count + 1
    return total / count if count else np.full(CLASSES, np.nan)


@pytest.mark.parametrize(
    "settings", [{}, {"key_temperature": 2.0}, {"similarity": "pearson"}], ids=str
)
@pytest.mark.parametrize("compiled", [False, True])
def test_means_of_all_rows_so_far(
    backend: Framework, settings: dict[str, Any], compiled: bool
) -> None:
    def update(means: ClassMeans, rows: Any, labels: Any, keep: Any) -> ClassMeans:
        return means.update(rows, labels, where=keep, config=MCLDConfig(**settings))

    update = backend.jit(update) if compiled else update
    means, seen = empty(backend), []
    for rows, labels, keep, _ in batches(3, (6, 6, 6)):
        before = [backend.to_numpy(x).copy() for x in means]
        updated = ClassMeans(*update(means, *arrays(backend, (rows, labels, keep))))
        for old, now in zip(before, means, strict=True):
            np.testing.assert_array_equal(old, backend.to_numpy(now))  # pure
        means = updated
        seen += [
            (key(row, settings), int(label))
            for row, label, kept in zip(rows, labels, keep, strict=True)
            if kept and label != -100
        ]
        found = backend.to_numpy(means.prototypes)
        for c in range(CLASSES):
            assert backend.to_numpy(means.counts)[c] == sum(label == c for _, label in seen)
            expected = mean_of(seen, c)
            if np.isnan(expected).any():
                assert np.isnan(found[c]).all()
            else:
                assert_value(found[c], expected, "float32", 8.0)


def test_soft_labels_and_no_labels_are_those_of_a_bank(backend: Framework) -> None:
    rng = np.random.default_rng(5)
    rows, soft = logits(rng, 6, CLASSES), rng.dirichlet(np.ones(CLASSES), 6)
    for labels in (soft, None):
        means = empty(backend, "float64")
        given = [backend.array(x) for x in (rows, soft)]
        for part in (slice(0, 2), slice(2, 6)):
            means = means.update(given[0][part], None if labels is None else given[1][part])
        bank = TeacherBank.from_logits(given[0], None if labels is None else given[1])
        found, expected = (backend.to_numpy(x) for x in (means.prototypes, bank.class_means()))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_window_follows_a_teacher_that_changes(backend: Framework) -> None:
    """``m ← m + n / (min(N, window) + n) (batch mean - m)``, by hand."""
    settings = MCLDConfig(similarity="dot")
    means, expected, count = empty(backend, "float64"), np.zeros(CLASSES), 0.0
    for number in (1.0, 5.0, 9.0):
        rows, labels = np.full((2, CLASSES), number), np.zeros(2, int)
        means = means.update(*(backend.array(x) for x in (rows, labels)), config=settings, window=3)
        before = min(count, 3)
        expected = expected + 2 / (before + 2) * (rows.mean(0) - expected)
        count = before + 2
    np.testing.assert_allclose(backend.to_numpy(means.prototypes)[0], expected, rtol=1e-12)
    assert backend.to_numpy(means.counts)[0] == 5


def test_they_are_prototypes_and_take_gathered_keys(backend: Framework) -> None:
    case = make_case(66)
    rows, labels = logits(np.random.default_rng(7), 12, CLASSES), np.arange(12) % (CLASSES - 1)
    gathered = TeacherKeys(*arrays(backend, (rows, labels, np.arange(12) < 9)))
    means = empty(backend).update(gathered).prototypes
    config = MCLDConfig(category_contrast="prototypes")
    student, teacher, own = arrays(backend, (case.student, case.teacher, case.labels))
    keys = TeacherKeys(teacher, own, prototypes=means)
    found = mcld_loss(student, teacher, own, config=config, keys=keys, reduction="none")
    seen = [(key(row, {}), int(label)) for row, label in zip(rows[:9], labels[:9], strict=True)]
    table = [mean_of(seen, c) for c in range(CLASSES)]
    assert np.isnan(table[-1]).all()  # no row of the last class: it is left out
    for i, label in enumerate(case.labels):
        similarity = [case.student[i] @ row for row in table[:-1]]
        category = 0.0
        if label < CLASSES - 1:
            category = np.log(np.exp(similarity).sum()) - similarity[label]
        rest = oracles.instance_wise(case, "none")[i] + 0.25 * oracles.sample_wise(case, "none")[i]
        assert_value(backend.to_numpy(found)[i], rest + category, "float32", 8.0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"teacher_logits": np.zeros((2, 3))}, r"teacher_logits need shape \(rows, 4\)"),
        ({"teacher_logits": np.zeros(4)}, r"teacher_logits needs two axes"),
        ({"labels": np.zeros(3, int)}, "labels"),
        ({"window": 0}, "window needs a finite number > 0; got 0"),
        ({"config": {}}, "config needs an MCLDConfig"),
        (
            {"teacher_logits": TeacherKeys(np.zeros((2, 4)))},
            "labels and where come with the TeacherKeys",
        ),
    ],
)
def test_errors(backend: Framework, change: dict[str, Any], text: str) -> None:
    arguments = {"teacher_logits": np.zeros((2, 4)), "labels": np.zeros(2, int), **change}
    with pytest.raises((ValueError, TypeError), match=f"ClassMeans.update: .*{text}"):
        empty(backend).update(**arguments)
    with pytest.raises(ValueError, match=r"ClassMeans.empty: classes needs an int ≥ 1; got 0"):
        ClassMeans.empty(0)

"""What teachers are worth, and several as one, in every backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcld_core.extensions.teachers import TeacherQuality, ensemble, quality_weights
from tests.extensions.teachers import teacher_oracles
from tests.extensions.teachers.teacher_cases import CLASSES, LABELS, ROWS, SOFT, TEACHER, WHERE
from tests.frameworks import Framework
from tests.tolerance import assert_value

# ---- quality ----


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["int", "soft"])
def test_quality_counts_rows_one_by_one(backend: Framework, labels: np.ndarray) -> None:
    expected = teacher_oracles.counts_of(TEACHER, labels, WHERE)
    found = TeacherQuality.from_logits(
        backend.array(TEACHER, "float64"),
        backend.array(labels, "float64"),
        where=backend.array(WHERE),
    )
    for name, value in found._asdict().items():
        assert backend.owns(value)
        assert_value(backend.to_numpy(value), expected[name])
    rows = expected["rows"].sum()
    accuracy = expected["correct"].sum() / rows
    for name, reference in {
        "accuracy": accuracy,
        "competence": teacher_oracles.competence(accuracy, CLASSES),
        "class_competence": np.array(teacher_oracles.class_competence(expected)),
    }.items():
        assert_value(backend.to_numpy(getattr(found, name)), reference)


def test_quality_of_parts_is_that_of_the_whole_however_split_and_merged(
    backend: Framework,
) -> None:
    def part(rows: slice) -> tuple[Any, Any]:
        return backend.array(TEACHER[rows], "float64"), backend.array(LABELS[rows])

    like = backend.array(TEACHER, "float64")
    whole = TeacherQuality.from_logits(*part(slice(None)))
    running = TeacherQuality.empty(CLASSES, like=like)
    for start in range(0, ROWS, 4):
        running = running.update(*part(slice(start, start + 4)))
    halves = [TeacherQuality.from_logits(*part(x)) for x in (slice(4), slice(4, None))]
    for other in (running, [x + y for x, y in zip(*halves, strict=True)]):
        for a, b in zip(other, whole, strict=True):
            assert_value(backend.to_numpy(a), backend.to_numpy(b))


def test_a_saved_quality_goes_on_bit_for_bit(backend: Framework, tmp_path: Path) -> None:
    def more(quality: TeacherQuality) -> TeacherQuality:
        return quality.update(backend.array(TEACHER, "float32"), backend.array(LABELS), decay=0.9)

    quality = more(TeacherQuality.empty(CLASSES, like=backend.array(TEACHER, "float32")))
    if backend.name == "torch":
        import torch

        torch.save(quality._asdict(), tmp_path / "quality.pt")
        restored = TeacherQuality(**torch.load(tmp_path / "quality.pt", weights_only=True))
    else:
        np.savez(
            tmp_path / "quality.npz", **{k: np.asarray(v) for k, v in quality._asdict().items()}
        )
        restored = TeacherQuality(**np.load(tmp_path / "quality.npz"))
    for name, a, b in zip(quality._fields, more(quality), more(restored), strict=True):
        assert backend.owns(b)
        assert backend.dtype(b) == backend.dtype(a) == "float32"
        np.testing.assert_array_equal(backend.to_numpy(b), backend.to_numpy(a), err_msg=name)


def test_quality_forgets_by_the_decay_and_starts_at_chance(backend: Framework) -> None:
    empty = TeacherQuality.empty(CLASSES, like=backend.array(TEACHER, "float64"))
    assert float(backend.to_numpy(empty.accuracy)) == 1 / CLASSES
    assert float(backend.to_numpy(empty.competence)) == 0.0
    right, wrong = np.zeros(20, int), np.ones(20, int)
    sure = backend.array(9.0 * np.eye(CLASSES)[np.zeros(20, int)], "float64")
    quality = empty.update(sure, backend.array(right)).update(
        sure, backend.array(wrong), decay=0.25
    )
    assert_value(backend.to_numpy(quality.accuracy), 5 / 25)
    assert_value(backend.to_numpy(quality.class_accuracy)[:3], np.array([5.2 / 6, 0.2 / 21, 0.2]))


def test_quality_update_compiles(differentiable: Framework) -> None:
    empty = TeacherQuality.empty(CLASSES, like=differentiable.array(TEACHER, "float64"))

    def update(teacher: Any, labels: Any) -> Any:
        return empty.update(teacher, labels).accuracy

    arguments = differentiable.array(TEACHER, "float64"), differentiable.array(LABELS)
    compiled = differentiable.jit(update)(*arguments)
    assert_value(differentiable.to_numpy(compiled), differentiable.to_numpy(update(*arguments)))


# ---- ensembles ----


def test_ensemble_with_a_class_that_no_teacher_gives_stays_finite(backend: Framework) -> None:
    never = np.array([[0.0, 1.0, -np.inf]])
    found = ensemble([backend.array(never, "float64"), backend.array(never, "float64")])
    values = backend.to_numpy(found)
    assert np.isfinite(values).all()
    assert_value(np.exp(values), np.exp([[0.0, 1.0, -np.inf]]) / (1 + np.e))


def test_quality_weights_rise_with_the_accuracy(backend: Framework) -> None:
    labels, qualities = TEACHER.argmax(1), []
    for wrong in (0, 4, 12):
        noisy = np.where(np.arange(ROWS) < wrong, (labels + 1) % CLASSES, labels)
        rows = backend.array(TEACHER, "float64")
        qualities.append(TeacherQuality.from_logits(rows, backend.array(noisy)))
    weights = [float(backend.to_numpy(w)) for w in quality_weights(qualities)]
    assert weights[0] == 1.0
    assert 0.0 == weights[2] < weights[1] < weights[0]
    sharper = [float(backend.to_numpy(w)) for w in quality_weights(qualities, power=3)]
    assert_value(sharper, np.array(weights) ** 3)

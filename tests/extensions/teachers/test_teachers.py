"""Trust in a teacher by row, class and schedule, in every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, TeacherKeys, mcld_loss
from mcld_core.extensions.teachers import (
    TeacherQuality,
    adaptive_mcld_loss,
    bounded_loss,
    ensemble,
    outlier_weights,
    quality_weights,
    reliability_weights,
    repair_rows,
)
from tests import oracles
from tests.cases import make_case, make_keys, teacher_keys
from tests.differences import differences
from tests.extensions.teachers import teacher_oracles
from tests.extensions.teachers.teacher_cases import (
    COUNTS,
    LABELS,
    ROWS,
    SOFT,
    TEACHER,
    WHERE,
    measured,
)
from tests.frameworks import Framework
from tests.tolerance import assert_central, assert_gradient, assert_value

# ---- trust by row ----


@pytest.mark.parametrize("with_quality", [False, True], ids=["labels", "quality"])
@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["int", "soft"])
def test_reliability_equals_its_definition(
    backend: Framework, labels: np.ndarray, with_quality: bool
) -> None:
    found = reliability_weights(
        backend.array(TEACHER, "float64"),
        backend.array(labels, "float64"),
        measured(backend) if with_quality else None,
        temperature=0.5,
        strength=0.75,
        where=backend.array(WHERE),
    )
    trust = teacher_oracles.class_competence(COUNTS) if with_quality else None
    expected = teacher_oracles.reliability(TEACHER, labels, WHERE, trust, 0.5, 0.75)
    assert_value(backend.to_numpy(found), expected)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["int", "soft"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_repaired_rows_equal_their_definition(
    backend: Framework, labels: np.ndarray, dtype: str
) -> None:
    r = np.linspace(-0.25, 1.25, ROWS)  # beyond 0 … 1: clipped
    found = repair_rows(
        backend.array(TEACHER, dtype),
        backend.array(labels, dtype),
        backend.array(r, dtype),
        smoothing=0.25,
    )
    expected = teacher_oracles.repaired(TEACHER, labels, r, 0.25)
    assert_value(backend.to_numpy(found), expected, dtype, scale=16.0)
    total = np.exp(backend.to_numpy(found)).sum(1)
    assert_value(total, np.ones(ROWS), dtype, scale=16.0)


def test_without_smoothing_an_untrusted_row_is_its_label_and_losses_stay_finite(
    differentiable: Framework,
) -> None:
    backend = differentiable
    labels, trust = backend.array(np.array([0, 2, 1, 3])), backend.array(np.zeros(4), "float64")
    teacher = repair_rows(backend.array(TEACHER[:4], "float64"), labels, trust, smoothing=0.0)
    assert_value(np.exp(backend.to_numpy(teacher)), np.eye(4)[[0, 2, 1, 3]])
    value, gradient = backend.value_and_grad(lambda s: mcld_loss(s, teacher, labels), TEACHER[4:8])
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["int", "soft", "keys"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_adaptive_loss_equals_its_definition(
    differentiable: Framework, kind: str, reduction: str
) -> None:
    backend = differentiable
    case = make_case(41, labels=kind if kind != "keys" else "int", weights=True, where=True)
    case = case.but(progress=0.5)
    if kind == "keys":
        case = case.but(keys=make_keys(case, own_start=2))
    settings = {"weight_instance": 1.5, "weight_ce": 0.125}
    trust = np.array([0.0, 0.25, 1.0, 0.5, 0.75])

    def loss(student: Any, reduction: str = reduction) -> Any:
        return adaptive_mcld_loss(
            student,
            backend.array(case.teacher, "float64"),
            backend.array(case.labels, "float64"),
            reliability=backend.array(trust, "float64"),
            config=MCLDConfig(**settings),
            keys=teacher_keys(backend, case.keys, "float64"),
            progress=0.5,
            sample_weight=backend.array(case.sample_weight, "float64"),
            where=backend.array(case.where),
            reduction=reduction,
        )

    def reference(student: np.ndarray, reduction: str = reduction) -> Any:
        rows = teacher_oracles.adaptive(case.but(student=student), trust, **settings)
        if reduction == "none":
            return rows
        values = np.where(case.where, case.sample_weight, 0.0)
        return rows.sum() / (values.sum() if reduction == "mean" else 1.0)

    scale = oracles.scale(case, **settings)
    found = backend.to_numpy(loss(backend.array(case.student, "float64")))
    assert_value(found, reference(case.student), scale=scale)
    if reduction == "mean" and kind == "int":
        _, gradient = backend.value_and_grad(loss, case.student)
        assert_central(gradient, differences(lambda s: float(reference(s)), case.student), scale)


def test_full_trust_is_the_plain_loss_and_no_trust_forgets_the_rows_own_teacher(
    differentiable: Framework,
) -> None:
    backend, case = differentiable, make_case(42)
    teacher, labels = backend.array(case.teacher, "float64"), backend.array(case.labels)

    keys = TeacherKeys(teacher, labels, normalizer=20.0)

    def loss(student: Any, trust: float) -> Any:
        r = backend.array(np.full(5, trust), "float64")
        return adaptive_mcld_loss(student, teacher, labels, reliability=r, keys=keys)

    plain = backend.value_and_grad(lambda s: mcld_loss(s, teacher, labels, keys=keys), case.student)
    full = backend.value_and_grad(lambda s: loss(s, 1.0), case.student)
    assert_value(full[0], plain[0], scale=8.0)
    assert_gradient(full[1], plain[1], scale=8.0)
    config = MCLDConfig(weight_instance=0.0, weight_sample=0.0, weight_ce=1.0)
    none = backend.value_and_grad(lambda s: loss(s, 0.0), case.student)
    label = backend.value_and_grad(
        lambda s: mcld_loss(s, teacher, labels, config=config, keys=keys), case.student
    )
    assert_value(none[0], label[0], scale=8.0)
    assert_gradient(none[1], label[1], scale=8.0)


# ---- dropped rows ----

DROPPED: dict[str, Any] = {
    "outlier_weights": lambda t, y, r, where: outlier_weights(t, y, where=where),
    "reliability_weights": lambda t, y, r, where: reliability_weights(t, y, where=where),
    "repair_rows": lambda t, y, r, where: repair_rows(t, y, r, where=where),
    "adaptive": lambda t, y, r, where: adaptive_mcld_loss(
        t, t + 1.0, y, reliability=r, sample_weight=r, where=where
    ),
    "bounded": lambda t, y, r, where: bounded_loss(r, 0.5, sample_weight=r, where=where),
    "quality": lambda t, y, r, where: tuple(TeacherQuality.from_logits(t, y, where=where)),
    "probabilities": lambda t, y, r, where: ensemble([t, t], weights=[r, 1.0], where=[where, None]),
    "logits": lambda t, y, r, where: ensemble([t], weights=[r], where=[where], space="logits"),
    "of weight 0": lambda t, y, r, where: tuple(
        ensemble([t], weights=[reliability_weights(t, y, where=where)], space=space)
        for space in ("probability", "logits")
    ),
}


@pytest.mark.parametrize("call", DROPPED.values(), ids=list(DROPPED))
@pytest.mark.parametrize("labels", ["int", "soft"])
@pytest.mark.parametrize("content", [np.nan, np.inf, -np.inf])
def test_what_a_dropped_row_holds_plays_no_part(
    backend: Framework, content: float, labels: str, call: Any
) -> None:
    values = []
    for inside in (0.5, content):
        teacher, soft, rows = TEACHER.copy(), SOFT.copy(), np.linspace(0.0, 1.0, ROWS)
        ints = np.where(LABELS < 0, 0, LABELS)
        for array in (teacher, soft, rows):
            array[~WHERE] = inside
        ints[~WHERE] = 1 if inside == 0.5 else 77
        given = [teacher, ints if labels == "int" else soft, rows]
        if call is DROPPED["probabilities"]:  # the other teacher has the row
            given[0] = TEACHER
        found = call(*(backend.array(x, "float64") for x in given), backend.array(WHERE))
        found = found if isinstance(found, (tuple, list)) else [found]
        values.append([backend.to_numpy(x) for x in found])
    for expected, other in zip(*values, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_array_equal(other, expected)


# ---- compiled ----


def quality_of(t: Any, y: Any, where: Any) -> TeacherQuality:
    return TeacherQuality.from_logits(t, y, where=where)


COMPILED: dict[str, Any] = DROPPED | {
    "a step": lambda t, y, r, where: mcld_loss(
        t + 1.0,
        repair_rows(t, y, reliability_weights(t, y, quality_of(t, y, where), strength=r[3])),
        y,
        where=where,
    ),
    "quality_weights": lambda t, y, r, where: ensemble(
        [t, 2.0 * t],
        weights=quality_weights([quality_of(t, y, where), quality_of(t, y, None)], power=2.0),
        temperatures=[1.0, r[3]],
    ),
}


@pytest.mark.parametrize("call", COMPILED.values(), ids=list(COMPILED))
def test_compiled_equals_eager(differentiable: Framework, call: Any) -> None:
    backend, labels = differentiable, np.where(LABELS < 0, 0, LABELS)
    given = (TEACHER, labels, np.linspace(0.0, 1.0, ROWS), WHERE)
    arrays = [backend.array(x, "float64") for x in given]
    found, expected = backend.jit(call)(*arrays), call(*arrays)
    if not isinstance(found, tuple):
        found, expected = (found,), (expected,)
    for a, b in zip(found, expected, strict=True):
        assert_value(backend.to_numpy(a), backend.to_numpy(b), scale=16.0)


# ---- errors ----

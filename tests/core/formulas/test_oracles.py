"""The oracles themselves: against numbers worked out by hand, and against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests import oracles
from tests.cases import make_case, make_keys
from tests.frameworks import REQUESTED, Framework, is_installed, only
from tests.oracles import Case, Keys

LOG2, LOG3 = math.log(2), math.log(3)
# Teacher probabilities (3/4, 1/4) and (1/4, 3/4); each student's two similarities follow.
TWO_ROWS = Case(
    student=np.array([[4.0, 0.0], [0.0, 8.0]]),
    teacher=np.array([[LOG3, 0.0], [0.0, LOG3]]),
    labels=np.array([0, 1]),
)


def test_the_backends_asked_for_are_installed() -> None:
    assert REQUESTED, "no backend to test: set MCLD_TEST_BACKENDS or install one"
    missing = [name for name in REQUESTED if not is_installed(name)]
    assert not missing, f"MCLD_TEST_BACKENDS asks for {missing}: install them"


def test_instance_wise_by_hand() -> None:
    # S = [[3, 1], [2, 6]]
    expected = [math.log1p(math.exp(-2)), math.log1p(math.exp(-4))]
    np.testing.assert_allclose(oracles.instance_wise(TWO_ROWS, "none"), expected, rtol=1e-12)


def test_the_target_mask_leaves_the_positive_alone() -> None:
    same = TWO_ROWS.but(labels=np.array([1, 1]))
    np.testing.assert_array_equal(oracles.instance_wise(same, "none"), [0, 0])
    unmasked = oracles.instance_wise(same, "none", target_mask=False)
    np.testing.assert_array_equal(unmasked, oracles.instance_wise(TWO_ROWS, "none"))


def test_category_wise_by_hand() -> None:
    same = TWO_ROWS.but(labels=np.array([1, 1]))
    expected = [math.log(math.exp(3) + math.exp(1)) - 2, math.log(math.exp(2) + math.exp(6)) - 4]
    np.testing.assert_allclose(oracles.category_wise(same, "none"), expected, rtol=1e-12)


def test_columns_by_hand() -> None:
    # Students uniform, so q^s = 1/2; ω = 1/2; q^t = 3/4, 1/4 in each column.
    case = TWO_ROWS.but(student=np.zeros((2, 2)))
    row = 2 * (0.5 * 0.75 * math.log(1.5) + 0.5 * 0.25 * math.log(0.5))
    found = oracles.category_wise(case, "none", category_contrast="columns")
    np.testing.assert_allclose(found, [row, row], rtol=1e-12)


def test_prototypes_by_hand() -> None:
    # Prototypes are the two teacher rows: each student's S is as above.
    found = oracles.category_wise(TWO_ROWS, "none", category_contrast="prototypes")
    expected = [math.log1p(math.exp(-2)), math.log1p(math.exp(-4))]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_sample_wise_by_hand() -> None:
    # T = 1, three classes: teacher (1/2, 1/4, 1/4), student uniform, target 0.
    case = Case(np.zeros((1, 3)), np.array([[LOG2, 0.0, 0.0]]), np.array([0]))
    binary = 0.5 * math.log(0.5 / (1 / 3)) + 0.5 * math.log(0.5 / (2 / 3))
    assert oracles.sample_wise(case, sample_temperature=1.0) == pytest.approx(binary, rel=1e-14)
    plain = oracles.sample_wise(case, sample_temperature=1.0, sample_target_mask=False)
    assert plain == pytest.approx(0.5 * math.log(1.5) + 0.5 * math.log(0.75), rel=1e-14)


def test_total_and_ramp_by_hand() -> None:
    case = TWO_ROWS.but(labels=np.array([1, 1]), progress=0.25)
    settings = {"weight_instance": 2.0, "weight_ce": 3.0, "category_warmup": 0.5}
    expected = (
        2.0 * oracles.instance_wise(case)
        + 0.25 * oracles.sample_wise(case)
        + 0.5 * oracles.category_wise(case)
        + 3.0 * (math.log1p(math.exp(4)) + math.log1p(math.exp(-8))) / 2
    )
    assert oracles.mcld_loss(case, **settings) == pytest.approx(expected, rel=1e-14)


def test_soft_and_int_labels_meet() -> None:
    case = make_case(3, labels="int")
    soft = make_case(3, labels="soft")
    keys = Keys(case.teacher, np.eye(case.teacher.shape[1])[case.labels])
    np.testing.assert_array_equal(
        oracles.instance_wise(case.but(keys=keys), "none"), oracles.instance_wise(case, "none")
    )
    mixed = soft.but(keys=Keys(case.teacher, case.labels))
    assert oracles.instance_wise(mixed) != oracles.instance_wise(soft)


def test_a_uniform_batch_gives_log_n() -> None:
    case = Case(np.zeros((4, 3)), np.zeros((4, 3)), np.array([0, 0, 1, 2]))
    assert oracles.instance_wise(case, target_mask=False) == pytest.approx(math.log(4))
    assert oracles.category_wise(case) == pytest.approx(math.log(4))
    by_row = [math.log(3), math.log(3), math.log(4), math.log(4)]
    np.testing.assert_allclose(oracles.instance_wise(case, "none"), by_row)


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
@pytest.mark.parametrize("bank", [False, True])
def test_handwritten_equals_the_oracles(backend: Framework, bank: bool) -> None:
    from tests.oracles import handwritten

    case = make_case(5, batch=6, classes=4)
    keys = make_keys(case, rows=11) if bank else None
    tensors = [backend.array(case.student), backend.array(case.teacher), backend.array(case.labels)]
    extra = [backend.array(keys.logits), backend.array(keys.labels)] if keys is not None else []
    case = case.but(keys=keys)
    pairs = [
        (handwritten.instance_wise(*tensors, *extra), oracles.instance_wise(case)),
        (handwritten.category_wise(*tensors, *extra), oracles.category_wise(case)),
        (handwritten.sample_wise(*tensors), oracles.sample_wise(case)),
        (handwritten.mcld_loss(*tensors, *extra), oracles.mcld_loss(case)),
        (handwritten.kd_loss(*tensors[:2]), oracles.kd_loss(case)),
    ]
    for found, expected in pairs:
        assert float(found) == pytest.approx(expected, rel=1e-12)

"""TeacherKeys: more rows than the batch, anywhere, with masks, labels and prototypes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mcld_core import TeacherKeys, category_wise, instance_wise, mcld_loss
from tests import oracles
from tests.cases import KEYS, logits, make_case, make_keys, soft_labels, value, value_and_grad
from tests.frameworks import Framework
from tests.oracles import Case, Keys
from tests.tolerance import assert_finite, assert_gradient, assert_value

CONTRASTS = ["labels", "prototypes"]


def with_keys(seed: int = 51, labels: str = "int", **options: Any) -> Case:
    """Return a case with keys around its own rows."""
    case = make_case(seed, labels=labels)
    return case.but(keys=make_keys(case, **options))


def test_own_start_may_be_an_array(backend: Framework) -> None:
    case = with_keys(own_start=3)
    assert case.keys is not None
    keys = TeacherKeys(
        backend.array(case.keys.logits),
        backend.array(case.keys.labels),
        own_start=backend.array(np.asarray(3, np.int32)),
    )
    student, teacher = backend.array(case.student), backend.array(case.teacher)
    found = mcld_loss(student, teacher, backend.array(case.labels), keys=keys)
    assert_value(backend.to_numpy(found), oracles.mcld_loss(case))


@pytest.mark.parametrize("key_labels", ["int", "soft", "none"])
@pytest.mark.parametrize("labels", ["int", "soft", "none"])
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_label_kinds_meet(backend: Framework, labels: str, key_labels: str, contrast: str) -> None:
    case = make_case(52, labels=labels)
    rng = np.random.default_rng(2)
    key_logits = logits(rng, KEYS, 4)
    key_logits[1:6] = case.teacher
    kinds = {"int": rng.integers(0, 4, KEYS), "soft": soft_labels(rng, KEYS, 4), "none": None}
    case = case.but(keys=Keys(key_logits, kinds[key_labels], own_start=1))
    settings = {"category_contrast": contrast}
    for term, oracle in (
        (instance_wise, oracles.instance_wise),
        (category_wise, oracles.category_wise),
    ):
        found = value(backend, term, case, settings=settings, reduction="none")
        assert_value(found, oracle(case, "none", **settings))


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_masked_keys(backend: Framework, contrast: str) -> None:
    case = with_keys(own_start=2)
    assert case.keys is not None
    where = np.array([True, False, True, True, True, True, True, False, True])
    labels = case.keys.labels.copy()
    labels[0] = -100
    case = case.but(keys=replace(case.keys, where=where, labels=labels))
    settings = {"category_contrast": contrast}
    found = value(backend, mcld_loss, case, settings=settings, reduction="none")
    assert_value(found, oracles.mcld_loss(case, "none", **settings))
    kept = np.array([2, 3, 4, 5, 6, 8])
    fewer = case.but(keys=Keys(case.keys.logits[kept], case.keys.labels[kept]))
    assert_value(found, oracles.mcld_loss(fewer, "none", **settings))


@pytest.mark.parametrize("labels", ["int", "soft", "none"])
@pytest.mark.parametrize("with_where", [False, True])
def test_the_own_row_of_a_kept_row_always_counts(
    backend: Framework, with_where: bool, labels: str
) -> None:
    case = with_keys(labels=labels, own_start=2)
    assert case.keys is not None
    if with_where:
        case = case.but(where=np.ones(5, bool))
    where = np.ones(KEYS, bool)
    where[3] = False
    masked = case.but(keys=replace(case.keys, where=where))
    found = value(backend, mcld_loss, masked, reduction="none")
    assert_value(found, oracles.mcld_loss(case, "none"))


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("dropped_by", ["where", "ignore_index"])
def test_the_own_row_of_a_dropped_row_is_no_key(
    backend: Framework, dropped_by: str, contrast: str
) -> None:
    case = with_keys(own_start=2)
    assert case.keys is not None
    keep = np.array([True, True, False, True, False])
    if dropped_by == "where":
        case = case.but(where=keep)
    else:
        case = case.but(labels=np.where(keep, case.labels, -100))
    settings = {"category_contrast": contrast}
    found = value(backend, mcld_loss, case, settings=settings, reduction="none")
    assert_value(found, oracles.mcld_loss(case, "none", **settings))
    # Without their own rows there: the same loss.
    rows = [0, 1, 2, 3, 5, 7, 8]
    fewer = case.but(keys=Keys(case.keys.logits[rows], case.keys.labels[rows]))
    small = Case(case.student[keep], case.teacher[keep], case.labels[keep])
    small = small.but(keys=replace(fewer.keys, own_start=2))
    np.testing.assert_allclose(found[keep], oracles.mcld_loss(small, "none", **settings), rtol=1e-9)


@pytest.mark.parametrize("contrast", [*CONTRASTS, "columns"])
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e300])
def test_the_content_of_a_dropped_row_changes_nothing(
    differentiable: Framework, junk: float, contrast: str
) -> None:
    """Neither value nor gradient: NaN times 0 is NaN, so a mask must select."""
    case = make_case(53, weights=True, where=True)
    assert case.where is not None
    dropped = ~case.where
    student, teacher = case.student.copy(), case.teacher.copy()
    student[dropped], teacher[dropped] = junk, junk
    labels = np.where(dropped, 3, case.labels)
    changed = case.but(student=student, teacher=teacher, labels=labels)
    settings = {"category_contrast": contrast, "weight_ce": 0.5}
    found, gradient = value_and_grad(differentiable, mcld_loss, changed, settings=settings)
    expected, reference = value_and_grad(differentiable, mcld_loss, case, settings=settings)
    assert_value(found, expected)
    assert_gradient(gradient, reference)
    np.testing.assert_array_equal(gradient[dropped], 0)


@pytest.mark.parametrize("similarity", ["probability", "pearson", "cosine", "dot"])
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_the_content_of_a_dropped_key_changes_nothing(
    differentiable: Framework, contrast: str, similarity: str
) -> None:
    case = with_keys(54, own_start=2)
    assert case.keys is not None
    where = np.ones(KEYS, bool)
    where[[0, 8]] = False
    case = case.but(keys=replace(case.keys, where=where))
    junk = case.keys.logits.copy()
    junk[0], junk[8] = np.nan, np.inf
    changed = case.but(keys=replace(case.keys, logits=junk))
    settings = {"category_contrast": contrast, "similarity": similarity}
    found, gradient = value_and_grad(differentiable, mcld_loss, changed, settings=settings)
    expected, reference = value_and_grad(differentiable, mcld_loss, case, settings=settings)
    assert_value(found, expected)
    assert_gradient(gradient, reference)


@pytest.mark.parametrize("similarity", ["probability", "pearson", "dot"])
def test_given_prototypes(backend: Framework, similarity: str) -> None:
    rng = np.random.default_rng(4)
    prototypes = logits(rng, 4, 4)
    if similarity == "probability":
        prototypes = soft_labels(rng, 4, 4)
    for labels in ("int", "soft", "none"):
        case = make_case(56, labels=labels)
        case = case.but(keys=Keys(case.teacher, case.labels, prototypes=prototypes))
        settings = {"category_contrast": "prototypes", "similarity": similarity}
        found = value(backend, category_wise, case, settings=settings, reduction="none")
        expected = oracles.category_wise(case, "none", **settings)
        assert_value(found, expected, scale=oracles.scale(case, **settings))


def test_a_class_without_a_key_is_no_prototype(backend: Framework) -> None:
    """Not a zero vector: an absent class is not in the sum at all."""
    case = make_case(57, batch=3).but(labels=np.array([0, 1, 0]))
    settings = {"category_contrast": "prototypes"}
    found = value(backend, category_wise, case, settings=settings, reduction="none")
    assert_value(found, oracles.category_wise(case, "none", **settings))
    zeros = np.zeros((4, 4))
    probabilities = np.exp(case.teacher) / np.exp(case.teacher).sum(-1, keepdims=True)
    zeros[0], zeros[1] = probabilities[[0, 2]].mean(0), probabilities[1]
    given = case.but(keys=Keys(case.teacher, case.labels, prototypes=zeros))
    with_zeros = value(backend, category_wise, given, settings=settings, reduction="none")
    assert np.all(with_zeros > found + 0.1)


@pytest.mark.parametrize("normalizer", [0.0, 2.5, 20.0])
def test_the_normalizer_divides_the_mean_alone(
    differentiable: Framework, normalizer: float
) -> None:
    """By 0 it is 0: a replica's batch of nothing but padding."""
    case = make_case(58, weights=True)
    case = case.but(keys=Keys(case.teacher, case.labels, normalizer=normalizer))
    found, gradient = value_and_grad(differentiable, mcld_loss, case)
    assert_value(found, oracles.mcld_loss(case))
    total = oracles.mcld_loss(case, "sum")
    assert_value(found, total / normalizer if normalizer else 0.0)
    assert_finite(gradient)
    assert (np.abs(gradient).max() > 0) == (normalizer > 0)
    for reduction in ("sum", "none"):
        found = value(differentiable, mcld_loss, case, reduction=reduction)
        assert_value(found, oracles.mcld_loss(case.but(keys=None), reduction))

"""`token_kd_loss` in every backend, of all logits and of stored ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core.extensions.nlp import TopKLogits, token_kd_loss
from tests import oracles
from tests.extensions.cases import BATCH, CLASSES, TIME, SequenceCase, make_case
from tests.extensions.oracles import top_k_logits, valid_places
from tests.frameworks import Framework
from tests.tolerance import assert_gradient, assert_value

SCALE = 10.0
VARIANTS: list[dict[str, Any]] = [
    {},
    {"temperature": 2.0, "shift": True},
    {"divergence": "reverse"},
    {"divergence": "jsd", "mix": 0.3, "temperature": 0.5},
]


def expected(case: SequenceCase, teacher: np.ndarray, shift: bool = False, **options: Any) -> float:
    """The mean over the valid tokens, each by the oracle of one row."""
    places = valid_places(case.mask, case.labels, shift)
    student, rows = (np.stack([x[place] for place in places]) for x in (case.student, teacher))
    return float(oracles.kd_loss(oracles.Case(student, rows), **({"temperature": 1.0} | options)))


def bind(
    backend: Framework, case: SequenceCase, teacher: Any, dtype: str = "float64", **options: Any
) -> Any:
    """Return student → loss."""
    labels, mask = backend.array(case.labels), backend.array(case.mask)
    if isinstance(teacher, TopKLogits):
        teacher = TopKLogits(*(backend.array(x, dtype) for x in teacher))
    else:
        teacher = backend.array(teacher, dtype)
    return lambda student: token_kd_loss(student, teacher, labels, attention_mask=mask, **options)


def stored(case: SequenceCase, k: int, tail: bool) -> tuple[TopKLogits, np.ndarray]:
    """A stored teacher, and its definition row by row."""
    kept = TopKLogits.from_logits(case.teacher, k)
    kept = kept if tail else kept._replace(tail=None)
    dense = np.empty_like(case.teacher)
    for place in np.ndindex(BATCH, TIME):
        mass = float(kept.tail[place]) if tail else None
        dense[place] = top_k_logits(kept.values[place], kept.indices[place], mass, CLASSES)
    return kept, dense


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_all_logits(backend: Framework, options: dict[str, Any], dtype: str) -> None:
    case = make_case(80)
    found = bind(backend, case, case.teacher, dtype, **options)(backend.array(case.student, dtype))
    assert_value(backend.to_numpy(found), expected(case, case.teacher, **options), dtype, SCALE)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_stored_logits(
    backend: Framework, options: dict[str, Any], k: int, tail: bool, dtype: str
) -> None:
    case = make_case(81)
    teacher, dense = stored(case, k, tail)
    found = bind(backend, case, teacher, dtype, **options)(backend.array(case.student, dtype))
    if options.get("divergence") == "reverse" and not tail:
        assert backend.to_numpy(found) == np.inf
    else:
        assert_value(backend.to_numpy(found), expected(case, dense, **options), dtype, SCALE)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("k", [2, CLASSES])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_gradient_of_stored_logits_is_that_of_all(
    differentiable: Framework, options: dict[str, Any], k: int, compiled: bool
) -> None:
    case = make_case(82)
    teacher, dense = stored(case, k, True)
    step = bind(differentiable, case, teacher, **options)
    step = differentiable.jit(step) if compiled else step
    value, gradient = differentiable.value_and_grad(
        bind(differentiable, case, dense, **options), case.student
    )
    found, found_gradient = differentiable.value_and_grad(step, case.student)
    assert_value(found, value, scale=SCALE)
    assert_gradient(found_gradient, gradient, scale=SCALE)


def test_reductions(backend: Framework) -> None:
    case = make_case(83)
    student = backend.array(case.student, "float64")
    valid = case.mask & (case.labels != -100)
    mean, total, rows, seventh = (
        backend.to_numpy(bind(backend, case, case.teacher, **options)(student))
        for options in (
            {},
            {"reduction": "sum"},
            {"reduction": "none"},
            {"normalizer": 7},
        )
    )
    assert rows.shape == (BATCH, TIME)
    assert not rows[~valid].any()
    assert_value(rows.sum(), total, scale=SCALE)
    assert_value(total, mean * valid.sum(), scale=SCALE)
    assert_value(seventh, total / 7, scale=SCALE)


@pytest.mark.parametrize("teacher", ["all", "top k"])
def test_what_a_masked_token_holds_does_not_matter(differentiable: Framework, teacher: str) -> None:
    case = make_case(84)
    valid = case.mask & (case.labels != -100)

    def run(filling: float | None) -> tuple[np.ndarray, np.ndarray]:
        student, theirs = case.student, case.teacher
        if teacher == "top k":
            theirs, _ = stored(case, 2, True)
        if filling is not None:
            student = np.where(valid[..., None], student, filling)
            if teacher == "top k":
                values = np.where(valid[..., None], theirs.values, filling)
                indices = np.where(valid[..., None], theirs.indices, -1)
                theirs = TopKLogits(values, indices, np.where(valid, theirs.tail, filling))
            else:
                theirs = np.where(valid[..., None], theirs, filling)
        return differentiable.value_and_grad(bind(differentiable, case, theirs), student)

    (value, gradient), (found, other) = run(None), run(np.nan)
    assert_value(found, value, scale=SCALE)
    assert_gradient(other, gradient, scale=SCALE)
    assert not other[~valid].any()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0.0}, "temperature needs a finite number > 0"),
    ({"divergence": "js"}, "divergence needs one of forward, reverse, jsd; got 'js'"),
    ({"mix": 1.0}, "mix needs a number in .* got 1"),
    ({"shift": "yes"}, "shift needs True or False"),
    ({"ignore_index": 0.5}, "ignore_index needs an int"),
    ({"reduction": "batchmean"}, "reduction needs one of"),
    ({"normalizer": -3}, "normalizer needs a finite number ≥ 0"),
    ({"attention_mask": np.ones((4, 2))}, r"attention_mask needs shape \(4, 3\)"),
]


@pytest.mark.parametrize(("options", "text"), BAD, ids=[text for _, text in BAD])
def test_errors_say_what_to_do(
    no_default_backend: None, options: dict[str, Any], text: str
) -> None:
    case = make_case(85)
    with pytest.raises((ValueError, TypeError), match=text):
        token_kd_loss(case.student, case.teacher, case.labels, **options)

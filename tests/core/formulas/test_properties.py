"""What the formulas promise for every input, by hypothesis.

Logits are multiples of 1/8 in [−8, 8], exact in every dtype; shapes come from a small set, for
JAX compiles every operation once a shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mcld_core import mcld_loss
from tests import oracles
from tests.cases import value, value_and_grad
from tests.frameworks import Framework
from tests.oracles import Case, Keys
from tests.tolerance import assert_gradient, assert_value

SHAPES = [(4, 2), (3, 4), (5, 3)]
SIMILARITIES = ["probability", "pearson", "cosine", "dot"]
CONTRASTS = ["labels", "prototypes", "columns"]
SETTINGS = st.fixed_dictionaries(
    {
        "similarity": st.sampled_from(SIMILARITIES),
        "category_contrast": st.sampled_from(CONTRASTS),
        "target_mask": st.booleans(),
        "soft_targets": st.booleans(),
        "sample_target_mask": st.booleans(),
        "weight_ce": st.sampled_from([0.0, 0.5]),
    }
)


def eighths(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    """Multiples of 1/8 in [−8, 8]."""
    return arrays(np.int8, shape, elements=st.integers(-64, 64)).map(lambda x: x / 8.0)


@st.composite
def cases(draw: st.DrawFn, shapes: Any = SHAPES, soft: bool = True, mask: bool = True) -> Case:
    """A batch with int (or soft) labels, with or without weights and a mask."""
    batch, classes = draw(st.sampled_from(shapes))
    labels = draw(arrays(np.int64, batch, elements=st.integers(0, classes - 1)))
    if soft and draw(st.booleans()):
        weights = draw(arrays(np.int8, (batch, classes), elements=st.integers(0, 8)))
        one_hot = np.eye(classes)[labels]
        labels = (weights + one_hot) / (weights + one_hot).sum(-1, keepdims=True)
    weights = draw(st.none() | arrays(np.int8, batch, elements=st.integers(0, 4)))
    where = draw(st.none() | arrays(np.bool_, batch)) if mask else None
    return Case(
        student=draw(eighths((batch, classes))),
        teacher=draw(eighths((batch, classes))),
        labels=labels,
        sample_weight=None if weights is None else weights.astype(np.float64),
        where=where,
    )


def scale_of(case: Case, settings: dict[str, Any]) -> float:
    """M of the tolerance table, also over the logits and T² times their differences."""
    return oracles.scale(case, **settings) + 64.0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@given(case=cases(), settings=SETTINGS)
def test_every_backend_equals_its_definition(
    backend: Framework, dtype: str, case: Case, settings: dict[str, Any]
) -> None:
    for reduction in ("none", "mean"):
        expected = oracles.mcld_loss(case, reduction, **settings)
        found = value(backend, mcld_loss, case, dtype, settings, reduction=reduction)
        assert_value(found, expected, dtype, scale_of(case, settings))


@given(case=cases(), settings=SETTINGS, data=st.data())
def test_class_permutation(
    backend: Framework, case: Case, settings: dict[str, Any], data: st.DataObject
) -> None:
    classes = case.student.shape[1]
    order = np.array(data.draw(st.permutations(range(classes))))
    labels = case.labels[:, order] if case.labels.ndim == 2 else np.argsort(order)[case.labels]
    if case.labels.ndim == 2 and settings["sample_target_mask"]:
        # Equal largest weights have no one arg max: the target would move with the order.
        top = np.sort(case.labels, -1)
        settings = settings | {"sample_target_mask": bool((top[:, -1] > top[:, -2]).all())}
    permuted = case.but(
        student=case.student[:, order], teacher=case.teacher[:, order], labels=labels
    )
    found = value(backend, mcld_loss, permuted, settings=settings, reduction="none")
    expected = value(backend, mcld_loss, case, settings=settings, reduction="none")
    assert_value(found, expected, scale=scale_of(case, settings))


@pytest.mark.parametrize("similarity", ["probability", "pearson"])
@given(case=cases(), settings=SETTINGS, data=st.data())
def test_a_constant_added_to_a_student_row_changes_nothing(
    backend: Framework, similarity: str, case: Case, settings: dict[str, Any], data: st.DataObject
) -> None:
    settings = settings | {"similarity": similarity}
    shifted = case.but(student=case.student + data.draw(eighths((len(case.student), 1))))
    found = value(backend, mcld_loss, shifted, settings=settings, reduction="none")
    expected = value(backend, mcld_loss, case, settings=settings, reduction="none")
    assert_value(found, expected, scale=scale_of(case, settings))


@given(case=cases(shapes=[(5, 3)], mask=False), settings=SETTINGS, data=st.data())
def test_where_is_removing_the_rows(
    differentiable: Framework, case: Case, settings: dict[str, Any], data: st.DataObject
) -> None:
    """In value and in gradient; three rows stay (one shape more to compile)."""
    rows = sorted(data.draw(st.permutations(range(5)))[:3])
    where = np.isin(np.arange(5), rows)
    found, gradient = value_and_grad(
        differentiable, mcld_loss, case.but(where=where), settings=settings
    )
    fewer = case.take(rows)
    expected, reference = value_and_grad(differentiable, mcld_loss, fewer, settings=settings)
    scale = scale_of(case, settings)
    assert_value(found, expected, scale=scale)
    assert_gradient(gradient[rows], reference, scale=scale, floor=1.0)
    np.testing.assert_array_equal(gradient[~where], 0)


@given(case=cases(), settings=SETTINGS)
def test_the_batch_as_keys_is_no_keys(
    differentiable: Framework, case: Case, settings: dict[str, Any]
) -> None:
    settings = settings | {"category_contrast": "labels"}
    keyed = case.but(keys=Keys(case.teacher, case.labels, case.where))
    found, gradient = value_and_grad(differentiable, mcld_loss, keyed, settings=settings)
    expected, reference = value_and_grad(differentiable, mcld_loss, case, settings=settings)
    assert_value(found, expected, scale=scale_of(case, settings))
    assert_gradient(gradient, reference, scale=scale_of(case, settings), floor=1.0)


@pytest.mark.parametrize("contrast", ["labels", "prototypes"])
@given(case=cases(shapes=[(3, 4)], soft=False), settings=SETTINGS, data=st.data())
def test_own_rows_anywhere_among_the_keys(
    backend: Framework, contrast: str, case: Case, settings: dict[str, Any], data: st.DataObject
) -> None:
    """The order of the keys does not count, as long as own_start says where the own rows are."""
    settings = settings | {"category_contrast": contrast}
    others = data.draw(eighths((4, 4)))
    other_labels = data.draw(arrays(np.int64, 4, elements=st.integers(0, 3)))
    start = data.draw(st.integers(0, 4))
    keys = [
        Keys(
            np.insert(others, [at] * 3, case.teacher, axis=0),
            np.insert(other_labels, [at] * 3, case.labels),
            own_start=at,
        )
        for at in (0, start)
    ]
    expected, found = (
        value(backend, mcld_loss, case.but(keys=k), settings=settings, reduction="none")
        for k in keys
    )
    assert_value(found, expected, scale=scale_of(case, settings))


@given(case=cases(mask=False), settings=SETTINGS)
def test_all_rows_dropped(differentiable: Framework, case: Case, settings: dict[str, Any]) -> None:
    dropped = case.but(where=np.zeros(len(case.student), bool))
    found, gradient = value_and_grad(differentiable, mcld_loss, dropped, settings=settings)
    assert found == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(case.student.shape))

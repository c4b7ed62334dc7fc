"""`pairs`: which keys each row is compared with, in every term that compares rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, category_wise, instance_wise, mcld_loss, sample_wise
from tests import oracles
from tests.cases import KEYS, make_case, make_keys, value, value_and_grad
from tests.frameworks import Framework
from tests.oracles import Case
from tests.tolerance import assert_gradient, assert_value, assert_zero

ORACLES: dict[Callable[..., Any], Callable[..., Any]] = {
    mcld_loss: oracles.mcld_loss,
    instance_wise: oracles.instance_wise,
    category_wise: oracles.category_wise,
}


def some_pairs(rows: int, keys: int, seed: int = 3) -> np.ndarray:
    """Return about half of all pairs, own or not."""
    return np.random.default_rng(seed).random((rows, keys)) < 0.5


def keyed(labels: str = "int", **options: bool) -> Case:
    """Return a case with keys around its own rows, and half of the pairs."""
    case = make_case(201, labels=labels, **options)
    keys = make_keys(case, own_start=2, labels="soft" if labels == "soft" else "int")
    return case.but(keys=keys, pairs=some_pairs(5, KEYS))


@pytest.mark.parametrize("labels", ["int", "soft", "none"])
@pytest.mark.parametrize(
    "settings",
    [{"block_size": 2}, {"target_mask": False}, {"similarity": "pearson", "temperature": 0.5}],
    ids=str,
)
def test_terms_equal_their_definition(
    backend: Framework, settings: dict[str, Any], labels: str
) -> None:
    chosen = {name: x for name, x in settings.items() if name != "block_size"}
    for case in (keyed(labels), make_case(202, labels=labels).but(pairs=some_pairs(5, 5))):
        scale = oracles.scale(case, **chosen)
        for function, oracle in ORACLES.items():
            found = value(backend, function, case, settings=settings, reduction="none")
            assert_value(found, oracle(case, "none", **chosen), scale=scale)
            whole = oracle(case.but(pairs=None), "none", **chosen)
            assert np.abs(found - whole).max() > 1e-3, "the pairs change nothing"


def test_masks_weights_and_pairs_meet(backend: Framework) -> None:
    case = keyed(weights=True, where=True)
    for reduction in ("none", "sum", "mean"):
        found = value(backend, mcld_loss, case, reduction=reduction)
        assert_value(found, oracles.mcld_loss(case, reduction))


@pytest.mark.parametrize("block_size", [2, None])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_all_true_is_none(differentiable: Framework, dtype: str, block_size: Any) -> None:
    case, settings = keyed().but(pairs=np.ones((5, KEYS), bool)), {"block_size": block_size}
    found, gradient = value_and_grad(differentiable, mcld_loss, case, dtype, settings)
    whole = case.but(pairs=None)
    expected, reference = value_and_grad(differentiable, mcld_loss, whole, dtype, settings)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, reference, rtol=1e-5, atol=1e-7)


def test_a_permutation_of_the_keys_changes_nothing(backend: Framework) -> None:
    """The own rows stay together: what is around them may stand anywhere."""
    case = keyed()
    order = np.array([8, 2, 3, 4, 5, 6, 0, 7, 1])
    keys = case.keys
    assert keys is not None
    moved = oracles.Keys(keys.logits[order], keys.labels[order], own_start=1)
    found = value(
        backend, mcld_loss, case.but(keys=moved, pairs=case.pairs[:, order]), reduction="none"
    )
    assert_value(found, value(backend, mcld_loss, case, reduction="none"))


@pytest.mark.parametrize("similarity", ["probability", "cosine"])
def test_groups_that_do_not_see_each_other_are_groups_apart(
    differentiable: Framework, similarity: str
) -> None:
    settings = {"similarity": similarity}
    case = make_case(203, batch=6)
    group = np.array([0, 1, 0, 1, 1, 0])
    together = case.but(pairs=group[:, None] == group[None, :])
    rows = value(differentiable, mcld_loss, together, settings=settings, reduction="none")
    _, gradient = value_and_grad(
        differentiable, mcld_loss, together, settings=settings, reduction="sum"
    )
    for number in (0, 1):
        own = np.flatnonzero(group == number)
        apart = case.take(own)
        expected = value(differentiable, mcld_loss, apart, settings=settings, reduction="none")
        _, reference = value_and_grad(
            differentiable, mcld_loss, apart, settings=settings, reduction="sum"
        )
        assert_value(rows[own], expected)
        assert_gradient(gradient[own], reference, floor=1.0)


def test_the_own_key_always_counts(backend: Framework) -> None:
    """With no other it is the only positive, and there is no negative: 0."""
    case = make_case(204)
    nothing = case.but(pairs=np.zeros((5, 5), bool))
    for function in (instance_wise, category_wise):
        assert_zero(value(backend, function, nothing, reduction="none"))
    found = value(backend, mcld_loss, case.but(pairs=~np.eye(5, dtype=bool)), reduction="none")
    assert_value(found, oracles.mcld_loss(case, "none"))


def test_no_positive_that_counts_means_no_category_term(differentiable: Framework) -> None:
    """The own key has another label here; the key of the row's label is not compared with."""
    case = make_case(205, batch=2).but(labels=np.array([0, 1]))
    keys = oracles.Keys(np.vstack([case.teacher, case.teacher]), np.array([2, 1, 0, 1]))
    case = case.but(keys=keys, pairs=np.array([[True, True, False, True]] * 2))
    rows = value(differentiable, category_wise, case, reduction="none")
    assert_value(rows, oracles.category_wise(case, "none"))
    assert rows[0] == 0.0 < rows[1]
    _, gradient = value_and_grad(differentiable, category_wise, case, reduction="sum")
    np.testing.assert_array_equal(gradient[0], 0)


@pytest.mark.parametrize("contrast", ["prototypes", "columns"])
def test_pairs_that_no_term_reads_are_an_error(contrast: str) -> None:
    case = make_case(207)
    config = MCLDConfig(category_contrast=contrast, weight_instance=0)
    for function in (category_wise, mcld_loss):
        with pytest.raises(ValueError, match="pairs need a term that compares rows"):
            function(
                case.student, case.teacher, case.labels, config=config, pairs=np.ones((5, 5), bool)
            )
    with pytest.raises(TypeError, match="pairs"):
        sample_wise(case.student, case.teacher, pairs=np.ones((5, 5), bool))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("pairs", "error", "text"),
    [
        (np.ones((5, 4), bool), ValueError, r"shape \(5, 5\), \(batch, keys\), .* got \(5, 4\)"),
        (np.ones(5, bool), ValueError, r"got \(5,\)"),
        (np.ones((5, 5)), TypeError, "needs dtype bool .*; got float64"),
        (np.ones((5, 5), "int32"), TypeError, "needs dtype bool .*; got int32"),
        ("all", TypeError, "pairs needs an array of numbers; got 'all'"),
    ],
)
def test_errors(backend: Framework, pairs: Any, error: type[Exception], text: str) -> None:
    case = make_case(208)
    given = pairs if isinstance(pairs, str) else backend.array(pairs)
    for function in ORACLES:
        with pytest.raises(error, match=text):
            function(backend.array(case.student), backend.array(case.teacher), pairs=given)


def test_the_width_is_that_of_the_keys(backend: Framework) -> None:
    case = keyed().but(pairs=some_pairs(5, 5))
    with pytest.raises(ValueError, match=r"shape \(5, 9\), \(batch, keys\), .* got \(5, 5\)"):
        value(backend, mcld_loss, case)

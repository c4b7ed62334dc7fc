"""`reduction`, `normalizer` and `class_prior` of the token and window losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig
from mcld_core.extensions.nlp import token_mcld_loss
from mcld_core.extensions.timeseries import window_mcld_loss
from tests.cases import logits
from tests.extensions.cases import BATCH, CLASSES, TIME, SequenceCase, make_case
from tests.extensions.nlp.token_cases import SCALE, bind, expected
from tests.frameworks import Framework
from tests.tolerance import assert_gradient, assert_value

PRIOR = np.asarray([8.0, 1.0, 0.0, 4.0, 2.0])
MEANS_OVER_TOKENS = {"weight_instance": 0.0, "weight_category": 0.0, "weight_ce": 1.0}


def counts(case: SequenceCase, shift: bool = False) -> np.ndarray:
    """Which tokens are valid."""
    valid = case.mask & (case.labels != -100)
    if shift:
        follows = np.roll(valid, -1, 1)
        follows[:, -1] = False
        valid = case.mask & follows
    return valid


@pytest.mark.parametrize("options", [{}, {"shift": True, "category": "sequence"}], ids=str)
def test_reductions_are_of_one_value_a_token(backend: Framework, options: dict[str, Any]) -> None:
    case = make_case(70)
    student = backend.array(case.student, "float64")
    valid = counts(case, "shift" in options)
    settings = {"weight_ce": 0.5}
    mean, terms = bind(backend, case, settings=settings, return_terms=True, **options)(student)

    def reduced(reduction: str, **more: Any) -> tuple[Any, dict[str, Any]]:
        step = bind(
            backend,
            case,
            settings=settings,
            reduction=reduction,
            return_terms=True,
            **options,
            **more,
        )
        return step(student)

    total, total_terms = reduced("sum")
    rows, rows_terms = reduced("none")
    fifth, fifth_terms = reduced("mean", normalizer=5)
    for name in ("loss", "instance", "sample", "token", "category", "ce"):
        one, of_sum, of_rows, of_fifth = (
            backend.to_numpy(loss if name == "loss" else parts[name])
            for loss, parts in (
                (mean, terms),
                (total, total_terms),
                (rows, rows_terms),
                (fifth, fifth_terms),
            )
        )
        assert of_rows.shape == (BATCH, TIME)
        assert not of_rows[~valid].any()
        assert_value(of_rows.sum(), one * valid.sum(), scale=SCALE)
        assert_value(of_sum, one * valid.sum(), scale=SCALE)
        assert_value(of_fifth, of_sum / 5, scale=SCALE)
    instance = backend.to_numpy(rows_terms["instance"])[valid]
    assert_value(instance, np.full(valid.sum(), expected(case, {}, **options)["instance"]))


@pytest.mark.parametrize("loss", [token_mcld_loss, window_mcld_loss])
def test_micro_batches_of_unequal_size_give_the_gradient_of_the_joined_batch(
    differentiable: Framework, loss: Any
) -> None:
    """20 and 15 rows: each mean over tokens or steps counts every one of the step once."""
    name = "labels" if loss is token_mcld_loss else "step_labels"
    rng = np.random.default_rng(71)
    student, teacher = (logits(rng, 7, 5, CLASSES) for _ in range(2))
    labels = rng.integers(0, CLASSES, (7, 5))
    config = MCLDConfig(**MEANS_OVER_TOKENS)

    def gradient(part: slice, **options: Any) -> np.ndarray:
        options |= {name: differentiable.array(labels[part]), "config": config}
        other = differentiable.array(teacher[part])
        call = differentiable.as_one(lambda s: loss(s, other, **options))
        return differentiable.value_and_grad(call, student[part])[1]

    joined = gradient(slice(None))
    parts = [slice(0, 4), slice(4, 7)]
    found = np.concatenate([gradient(part, normalizer=35) for part in parts])
    assert_gradient(found, joined, scale=SCALE)
    averaged = np.concatenate([gradient(part) / 2 for part in parts])  # what a mean of means gives
    assert np.abs(averaged / joined - 1).max() > 0.1


@pytest.mark.parametrize("category", ["token", "sequence"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_prior_enters_the_contrasts_of_tokens(
    backend: Framework, category: str, dtype: str
) -> None:
    case = make_case(73)
    options = {"category": category, "class_prior": PRIOR}
    settings = {"weight_ce": 0.5}
    loss, terms = bind(backend, case, dtype, settings, return_terms=True, **options)(
        backend.array(case.student, dtype)
    )
    reference = expected(case, settings, **options)
    assert_value(backend.to_numpy(loss), reference["total"], dtype, SCALE)
    for name, term in terms.items():
        assert_value(backend.to_numpy(term), reference[name], dtype, SCALE)
    without = expected(case, settings, category=category)
    assert abs(reference["total"] - without["total"]) > 0.01


BAD = [
    ({"reduction": "average"}, "reduction needs one of mean, sum, none; got 'average'"),
    ({"normalizer": -1.0}, r"normalizer needs a finite number ≥ 0; got -1\.0"),
    ({"normalizer": float("nan")}, "normalizer needs a finite number ≥ 0; got nan"),
    ({"normalizer": np.ones(4)}, r"normalizer needs one number; got shape \(4,\)"),
    ({"class_prior": np.ones(4)}, r"class_prior needs shape \(5,\)"),
    ({"class_prior": -np.ones(5)}, "class_prior needs finite numbers ≥ 0"),
]


@pytest.mark.parametrize("loss", [token_mcld_loss, window_mcld_loss])
@pytest.mark.parametrize(("options", "text"), BAD, ids=[text for _, text in BAD])
def test_errors_say_what_to_do(
    no_default_backend: None, loss: Any, options: dict[str, Any], text: str
) -> None:
    case = make_case(75)
    with pytest.raises(ValueError, match=text):
        loss(case.student, case.teacher, **options)

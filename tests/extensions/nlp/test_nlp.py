"""`token_mcld_loss` in every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.extensions.nlp import TopKLogits, token_mcld_loss
from tests.differences import slope
from tests.extensions import oracles
from tests.extensions.cases import BATCH, CLASSES, TIME, make_case
from tests.extensions.nlp.token_cases import SCALE, bind, expected
from tests.frameworks import Framework
from tests.tolerance import assert_central, assert_gradient, assert_value

TERMS = ("instance", "sample", "token", "category")

VARIANTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"weight_ce": 0.5, "weight_sample": 2.0}, {"shift": True, "token_contrast": 0.5}),
    ({"target_mask": False, "sample_target_mask": False}, {"progress": 0.5}),
    ({"key_temperature": 2.0}, {"category": "sequence"}),
    ({"similarity": "pearson"}, {"category": "sequence", "shift": True}),
    ({"similarity": "dot", "weight_instance": 0.0}, {}),
    ({"weight_sample": 0.0, "weight_category": 0.0, "weight_instance": 2.0}, {}),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("settings", "options"), VARIANTS, ids=str)
def test_total_and_terms_equal_their_definition(
    backend: Framework, settings: dict[str, Any], options: dict[str, Any], dtype: str
) -> None:
    case = make_case()
    loss, terms = bind(backend, case, dtype, settings, return_terms=True, **options)(
        backend.array(case.student, dtype)
    )
    reference = expected(case, settings, **options)
    scale = SCALE * (10.0 if settings.get("similarity") == "pearson" else 1.0)
    assert_value(backend.to_numpy(loss), reference["total"], dtype, scale)
    switched_off = {
        "sample": settings.get("weight_sample") == 0,
        "token": settings.get("weight_sample") == 0,
        "category": settings.get("weight_category") == 0,
        "instance": settings.get("weight_instance") == 0,
        "ce": settings.get("weight_ce", 0) == 0,
        "ramp": False,
    }
    assert set(terms) == {name for name in switched_off if name != "ce" or not switched_off["ce"]}
    for name, term in terms.items():
        found = backend.to_numpy(term)
        assert_value(found, 0.0 if switched_off[name] else reference[name], dtype, scale)


def test_by_default_each_token_is_contrasted_with_all_others_alone(backend: Framework) -> None:
    """Neither sequences nor the tokens of one sequence; 0.5 asks for half of the former."""
    case = make_case()
    arrays = [backend.array(x) for x in (case.student, case.teacher, case.labels)]
    loss, terms = token_mcld_loss(*arrays, return_terms=True)
    assert all(float(backend.to_numpy(terms[name])) == 0.0 for name in ("token", "instance"))
    whole = oracles.token_terms(case.student, case.teacher, case.labels)
    assert min(whole["token"], whole["instance"]) > 0.1
    without = 0.25 * whole["sample"] + whole["category"]
    assert_value(backend.to_numpy(loss), without, scale=SCALE)
    half = token_mcld_loss(*arrays, sequence_contrast=0.5)
    assert_value(backend.to_numpy(half), without + 0.5 * whole["instance"], scale=SCALE)


@pytest.mark.parametrize(("settings", "options"), VARIANTS[:4], ids=str)
def test_gradient_equals_central_differences(
    differentiable: Framework, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    case = make_case(1)
    _, gradient = differentiable.value_and_grad(
        bind(differentiable, case, settings=settings, **options), case.student
    )
    direction = np.random.default_rng(2).normal(size=case.student.shape)

    def along(k: float) -> Any:
        return expected(case.but(student=case.student + k * direction), settings, **options)[
            "total"
        ]

    assert_central((gradient * direction).sum(), slope(along), SCALE)
    assert not gradient[~case.mask].any()


def test_blocks_do_not_change_value_or_gradient(differentiable: Framework) -> None:
    case = make_case(2)
    whole = differentiable.value_and_grad(
        bind(differentiable, case, settings={"block_size": None}), case.student
    )
    by_block = differentiable.value_and_grad(
        bind(differentiable, case, settings={"block_size": 5}), case.student
    )
    assert_value(by_block[0], whole[0], scale=SCALE)
    assert_gradient(by_block[1], whole[1], scale=SCALE)


@pytest.mark.parametrize("options", [{}, {"category": "sequence", "shift": True}], ids=str)
def test_compiled_equals_eager(differentiable: Framework, options: dict[str, Any]) -> None:
    case = make_case(3)
    step = bind(differentiable, case, **options)
    found, gradient = differentiable.value_and_grad(differentiable.jit(step), case.student)
    value, reference = differentiable.value_and_grad(step, case.student)
    assert_value(found, value, scale=SCALE)
    assert_gradient(gradient, reference, scale=SCALE)


@pytest.mark.parametrize("similarity", ["dot", "probability"])
def test_columns_of_sequences_know_the_key_temperature(similarity: str) -> None:
    case = make_case()
    options: dict[str, Any] = {"sequence_labels": np.arange(BATCH), "category": "sequence"}
    found = []
    for teacher, temperature in ((case.teacher, 2.0), (case.teacher / 2, 1.0)):
        config = MCLDConfig(
            weight_sample=0.0,
            similarity=similarity,
            key_temperature=temperature,
            category_contrast="columns",
        )
        loss = token_mcld_loss(case.student, teacher, config=config, **options)
        found.append(float(loss))
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_labels_and_mask_may_be_left_out(backend: Framework) -> None:
    case = make_case(4)
    case = case.but(mask=np.ones_like(case.mask))
    step = bind(backend, case, labels=None, attention_mask=None, sequence_labels=None)
    reference = expected(case, {}, labels=None, sequence_labels=None)
    found = backend.to_numpy(step(backend.array(case.student, "float64")))
    assert_value(found, reference["total"], scale=SCALE)


def test_soft_labels(backend: Framework) -> None:
    case = make_case(5)
    soft = np.random.default_rng(5).multinomial(16, np.full(CLASSES, 0.2), (BATCH, TIME)) / 16
    step = bind(backend, case, labels=soft)
    found = backend.to_numpy(step(backend.array(case.student, "float64")))
    assert_value(found, expected(case, {}, labels=soft)["total"], scale=SCALE)


def test_half_precision_computes_in_float32(backend: Framework) -> None:
    case = make_case(6)
    for dtype in sorted(set(backend.dtypes) - {"float32", "float64"}):
        loss = bind(backend, case, dtype)(backend.array(case.student, dtype))
        assert backend.dtype(loss) == "float32"
        assert_value(backend.to_numpy(loss), expected(case, {})["total"], dtype, SCALE)


def test_nothing_valid_is_zero_with_a_zero_gradient(differentiable: Framework) -> None:
    case = make_case(7)
    step = bind(differentiable, case.but(mask=np.zeros_like(case.mask)))
    value, gradient = differentiable.value_and_grad(step, case.student)
    assert value == 0.0
    assert not gradient.any()


def test_an_int_attention_mask_equals_a_bool_one(backend: Framework) -> None:
    case = make_case(8)
    student = backend.array(case.student, "float64")
    found = bind(backend, case, attention_mask=case.mask.astype("int64"))(student)
    assert_value(backend.to_numpy(found), backend.to_numpy(bind(backend, case)(student)))


@given(seed=st.integers(0, 2**16), more=st.integers(1, 3), data=st.data())
def test_padding_changes_nothing(
    differentiable: Framework, seed: int, more: int, data: st.DataObject
) -> None:
    """Padded tokens and a padded sequence, whatever they hold, NaN included."""
    case = make_case(seed)
    filling = data.draw(st.sampled_from([0.0, 5.0, np.nan, np.inf]))
    more = 1 + more % 2  # few shapes: JAX compiles each

    def pad(x: np.ndarray, value: Any) -> np.ndarray:
        widths = [(0, 1), (0, more)] + [(0, 0)] * (x.ndim - 2)
        return np.pad(x, widths, constant_values=value)

    padded = case.but(
        student=pad(case.student, filling),
        teacher=pad(case.teacher, filling),
        labels=pad(case.labels, data.draw(st.sampled_from([-100, 1]))),
        mask=pad(case.mask, False),
        groups=np.pad(case.groups, (0, 1)),
    )
    value, gradient = differentiable.value_and_grad(bind(differentiable, case), case.student)
    found, padded_gradient = differentiable.value_and_grad(
        differentiable.as_one(bind(differentiable, padded)), padded.student
    )
    assert_value(found, value, scale=SCALE)
    assert_gradient(padded_gradient[:BATCH, :TIME], gradient, scale=SCALE)
    assert not padded_gradient[BATCH:].any()
    assert not padded_gradient[:, TIME:].any()


@pytest.mark.parametrize(("settings", "options"), VARIANTS, ids=str)
@pytest.mark.parametrize("filling", [np.nan, -np.inf])
def test_what_a_masked_token_holds_does_not_matter(
    differentiable: Framework, settings: dict[str, Any], options: dict[str, Any], filling: float
) -> None:
    case = make_case(12)
    counts = case.mask & (case.labels != -100)
    if options.get("shift"):  # the label of the token after it
        follows = np.roll(counts, -1, 1)
        follows[:, -1] = False
        counts = case.mask & follows
    other = {
        name: np.where(counts[..., None], getattr(case, name), filling)
        for name in ("student", "teacher")
    }
    value, gradient = differentiable.value_and_grad(
        bind(differentiable, case, settings=settings, **options), case.student
    )
    found, other_gradient = differentiable.value_and_grad(
        bind(differentiable, case.but(**other), settings=settings, **options), other["student"]
    )
    assert_value(found, value, scale=SCALE)
    assert_gradient(other_gradient, gradient, scale=SCALE)
    assert not other_gradient[~counts].any()


def test_ids_of_sequences_may_be_of_any_size_and_width(backend: Framework) -> None:
    case = make_case(13)
    student = backend.array(case.student, "float64")
    expected_value = backend.to_numpy(bind(backend, case)(student))
    for ids in (case.groups + 2**32, case.groups.astype("uint8"), 3 - 2**40 - case.groups):
        found = bind(backend, case, sequence_labels=ids)(student)
        if ids[0] > 0:
            assert_value(backend.to_numpy(found), expected_value)
        else:  # shared with no other
            alone = bind(backend, case, sequence_labels=np.arange(BATCH))(student)
            assert_value(backend.to_numpy(found), backend.to_numpy(alone))


@given(seed=st.integers(0, 2**16), order=st.permutations(range(BATCH)))
def test_the_order_of_sequences_does_not_matter(
    differentiable: Framework, seed: int, order: list[int]
) -> None:
    case = make_case(seed)
    names = ("student", "teacher", "labels", "mask", "groups")
    moved = case.but(**{name: getattr(case, name)[order] for name in names})
    value, gradient = differentiable.value_and_grad(bind(differentiable, case), case.student)
    found, moved_gradient = differentiable.value_and_grad(
        bind(differentiable, moved), moved.student
    )
    assert_value(found, value, scale=SCALE)
    assert_gradient(moved_gradient, gradient[order], scale=SCALE)


@given(seed=st.integers(0, 2**16))
def test_the_sample_wise_terms_do_not_see_other_sequences(
    differentiable: Framework, seed: int
) -> None:
    """Other sequences change, the sample-wise gradient of the first stays."""
    case = make_case(seed)
    only = {"weight_instance": 0.0, "weight_category": 0.0}
    other = make_case(seed + 1)
    first = np.arange(BATCH) == 0

    def mix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(first.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    mixed = case.but(
        student=mix(case.student, other.student),
        teacher=mix(case.teacher, other.teacher),
        labels=mix(case.labels, np.where(case.labels == -100, -100, other.labels)),
    )
    _, gradient = differentiable.value_and_grad(
        bind(differentiable, case, settings=only), case.student
    )
    _, found = differentiable.value_and_grad(
        bind(differentiable, mixed, settings=only), mixed.student
    )
    assert gradient[0].any()
    assert_gradient(found[0], gradient[0], scale=SCALE)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"student": np.zeros((2, 5))}, ValueError, r"student_logits needs three axes .* \(2, 5\)"),
    ({"teacher": np.zeros((4, 3, 6))}, ValueError, "need the same shape.*align_vocabulary"),
    ({"teacher": np.zeros((4, 2, 5))}, ValueError, "need the same shape"),
    ({"labels": np.zeros((4, 2), int)}, ValueError, r"labels need shape \(4, 3\).*got \(4, 2\)"),
    ({"attention_mask": np.ones((4, 2))}, ValueError, r"attention_mask needs shape \(4, 3\)"),
    ({"attention_mask": np.ones((4, 3))}, TypeError, "attention_mask needs dtype bool or int"),
    ({"category": "word"}, ValueError, "category needs one of token, sequence; got 'word'"),
    ({"category": "sequence"}, ValueError, "category='sequence' needs sequence_labels"),
    (
        {
            "category": "sequence",
            "sequence_labels": [0, 1, 0, 1],
            "config": MCLDConfig(category_contrast="prototypes"),
        },
        ValueError,
        "category='sequence' has no prototypes",
    ),
    ({"sequence_contrast": -0.5}, ValueError, r"sequence_contrast needs a finite number ≥ 0; got"),
    ({"token_contrast": -0.5}, ValueError, r"token_contrast needs a finite number ≥ 0; got -0\.5"),
    ({"sequence_labels": [0.0, 1.0, 0.0, 1.0]}, TypeError, "sequence_labels needs an integer"),
    ({"sequence_labels": [1, 2]}, ValueError, r"sequence_labels needs shape \(4,\)"),
    (
        {"teacher": TopKLogits(np.zeros((4, 3, 2)), np.zeros((4, 3, 2), int))},
        TypeError,
        "teacher_logits needs all logits, .* got TopKLogits.*token_kd_loss",
    ),
]


@pytest.mark.parametrize(("changes", "error", "text"), BAD, ids=[text for *_, text in BAD])
def test_errors_say_what_to_do(
    no_default_backend: None, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    case = make_case(15)
    student = changes.pop("student", case.student) if "student" in changes else case.student
    options = {name: value for name, value in changes.items() if name not in ("teacher", "student")}
    labels = options.pop("labels", case.labels)
    with pytest.raises(error, match=text):
        token_mcld_loss(student, changes.get("teacher", case.teacher), labels, **options)


def test_sequences_of_one_token_are_the_rows_of_the_classifier(no_default_backend: None) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 6, 7))
    labels = np.array([0, 1, 1, 2, 6, 0])
    found = token_mcld_loss(
        student[:, None], teacher[:, None], labels[:, None], attention_mask=np.ones((6, 1), bool),
        sequence_labels=labels, sequence_contrast=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(found, mcld_loss(student, teacher, labels), rtol=1e-10)

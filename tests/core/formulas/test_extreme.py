"""The edges: large and infinite logits, constant rows, one class, two, empty batches, dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import (
    ClassMeans,
    MCLDConfig,
    category_wise,
    dkd_loss,
    instance_wise,
    kd_loss,
    mcld_loss,
    sample_wise,
)
from tests import oracles
from tests.cases import bind, make_case, value, value_and_grad
from tests.frameworks import Framework
from tests.oracles import Case, Keys
from tests.tolerance import GRADIENT_RTOL, assert_finite, assert_gradient, assert_value, assert_zero

SIMILARITIES = ["probability", "pearson", "cosine", "dot"]
CONTRASTS = ["labels", "prototypes", "columns"]
HALF_AND_SINGLE = ["float16", "bfloat16", "float32"]
WEIGHTS = {"weight_ce": 1.0, "weight_sample": 1.0}


def huge(seed: int, size: float = 1e4) -> Case:
    """Logits of ±size and 0."""
    signs = np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], size=(2, 5, 4))
    return make_case(seed).but(student=size * signs[0], teacher=size * signs[1])


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_huge_logits(differentiable: Framework, similarity: str, contrast: str, dtype: str) -> None:
    case = huge(101)
    settings = WEIGHTS | {"similarity": similarity, "category_contrast": contrast}
    found, gradient = value_and_grad(differentiable, mcld_loss, case, dtype, settings)
    assert_finite(found, gradient)
    scale = max(1e4, oracles.scale(case, **settings))
    if dtype != "bfloat16":  # 1e4 is 9984 there
        assert_value(found, oracles.mcld_loss(case, **settings), dtype, scale)


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("target_mask", [True, False])
def test_teacher_logits_of_minus_infinity(
    differentiable: Framework, target_mask: bool, contrast: str
) -> None:
    """A class of probability 0: 0·log 0 = 0 in every divergence, and no gradient breaks."""
    case = make_case(103)
    teacher = case.teacher.copy()
    teacher[:, 3] = -np.inf  # labels are 0 … 2
    teacher[1, (case.labels[1] + 1) % 3] = -np.inf
    case = case.but(teacher=teacher)
    settings = {"sample_target_mask": target_mask, "category_contrast": contrast}
    found, gradient = value_and_grad(differentiable, mcld_loss, case, settings=settings)
    assert_value(found, oracles.mcld_loss(case, **settings))
    assert_finite(gradient)
    for dtype in ("float16", "float32"):
        half = value_and_grad(differentiable, mcld_loss, case, dtype, settings)
        assert_value(half[0], found, dtype)
        assert_gradient(half[1], gradient, dtype)


MASKS: list[tuple[Any, dict[str, Any]]] = [
    (kd_loss, {"temperature": 0.5}),
    (dkd_loss, {"temperature": 0.5}),
    (mcld_loss, {"settings": WEIGHTS | {"sample_temperature": 0.5, "temperature": 0.5}}),
    (mcld_loss, {"settings": WEIGHTS | {"block_size": None}}),
    (mcld_loss, {"settings": {"category_contrast": "columns", "key_temperature": 0.5}}),
    (mcld_loss, {"settings": {"category_contrast": "prototypes", "temperature": 0.1}}),
]


@pytest.mark.parametrize("mask", ["lowest", "-inf"])
@pytest.mark.parametrize(("loss", "options"), MASKS, ids=range(len(MASKS)))
def test_classes_masked_on_both_sides_count_for_nothing(
    differentiable: Framework, loss: Any, options: dict[str, Any], mask: str
) -> None:
    """As models write it: -inf, or the lowest number of the dtype; a temperature divides it."""
    case = make_case(113, classes=3)
    expected, reference = value_and_grad(differentiable, loss, case, "float32", **options)
    lowest = np.finfo("float32").min if mask == "lowest" else -np.inf
    masked = case.but(
        student=np.insert(case.student, 3, lowest, axis=1),
        teacher=np.insert(case.teacher, 3, lowest, axis=1),
    )
    found, gradient = value_and_grad(differentiable, loss, masked, "float32", **options)
    assert_value(found, expected, "float32", scale=8.0)
    assert_gradient(gradient, np.insert(reference, 3, 0.0, axis=1), "float32", scale=8.0)
    only_student = masked.but(teacher=np.insert(case.teacher, 3, 0.0, axis=1))
    assert_finite(*value_and_grad(differentiable, loss, only_student, "float32", **options))


def test_nothing_but_the_target(differentiable: Framework) -> None:
    """All other classes at −inf: the teacher is certain, the others have no distribution."""
    case = make_case(105)
    teacher = np.where(np.eye(4)[case.labels] > 0, 0.0, -np.inf)
    found, gradient = value_and_grad(differentiable, sample_wise, case.but(teacher=teacher))
    assert_finite(found, gradient)
    two = make_case(105, classes=2)
    teacher = np.where(np.eye(2)[two.labels] > 0, 0.0, -np.inf)
    two = two.but(teacher=teacher)
    found, gradient = value_and_grad(differentiable, sample_wise, two)
    assert_value(found, oracles.sample_wise(two))
    assert_finite(gradient)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_one_class(differentiable: Framework, contrast: str, similarity: str) -> None:
    """All rows are of the one class: only the category-wise term has something to say."""
    case = make_case(106, classes=1)
    settings = {"category_contrast": contrast, "similarity": similarity}
    found, gradient = value_and_grad(differentiable, mcld_loss, case, settings=settings)
    expected = oracles.mcld_loss(case, **settings)
    assert_value(found, expected, scale=oracles.scale(case, **settings))
    assert_finite(gradient)
    for term in (instance_wise, sample_wise):
        found, gradient = value_and_grad(differentiable, term, case, settings=settings)
        assert found == 0.0
        np.testing.assert_array_equal(gradient, np.zeros((5, 1)))
    assert_zero(value(differentiable, dkd_loss, case))


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("labels", ["int", "soft", "none"])
def test_empty_batch(differentiable: Framework, labels: str, contrast: str) -> None:
    case = Case(np.zeros((0, 4)), np.zeros((0, 4)))
    kinds = {"int": np.zeros(0, np.int64), "soft": np.zeros((0, 4)), "none": None}
    case = case.but(labels=kinds[labels])
    settings = WEIGHTS | {"category_contrast": contrast, "weight_ce": float(labels != "none")}
    found, gradient = value_and_grad(differentiable, mcld_loss, case, settings=settings)
    assert found == 0.0
    assert gradient.shape == (0, 4)
    rows = value(differentiable, mcld_loss, case, settings=settings, reduction="none")
    assert rows.shape == (0,)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_batch_of_one(differentiable: Framework, similarity: str) -> None:
    case = make_case(108, batch=1)
    settings = {"similarity": similarity}
    found, gradient = value_and_grad(differentiable, mcld_loss, case, settings=settings)
    assert_value(found, 0.25 * oracles.sample_wise(case))
    assert_finite(gradient)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_come_in_the_inputs_dtype(differentiable: Framework, reduction: str) -> None:
    case = make_case(109, weights=True)
    for dtype in differentiable.dtypes:
        for loss in (mcld_loss, instance_wise, category_wise, sample_wise, kd_loss, dkd_loss):
            call = bind(differentiable, loss, case, dtype, reduction=reduction)
            found, gradient = differentiable.gradient(
                call, differentiable.array(case.student, dtype)
            )
            assert differentiable.dtype(gradient) == dtype
            wide = "float64" if dtype == "float64" else "float32"
            assert differentiable.dtype(found) == wide


def test_a_float16_gradient_survives_a_loss_scale(differentiable: Framework) -> None:
    """The incoming gradient multiplies before the cast to half: small entries do not flush."""
    case = make_case(110).but(sample_weight=np.full(5, 2.0**-20))
    call = bind(differentiable, mcld_loss, case, "float16", reduction="sum")
    single = bind(differentiable, mcld_loss, case, "float32", reduction="sum")
    _, gradient = differentiable.value_and_grad(
        lambda student: call(student) * 2.0**20, case.student, "float16"
    )
    _, expected = differentiable.value_and_grad(
        lambda student: single(student) * 2.0**20, case.student, "float32"
    )
    assert_gradient(gradient, expected, "float16")


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("mass", [1e-40, 1e-44])
def test_a_class_of_hardly_any_mass_has_no_prototype(
    differentiable: Framework, mass: float, similarity: str
) -> None:
    """float32 divides by such a sum without digits; some frameworks flush it to 0 halfway."""
    labels = np.eye(4)[[0, 0, 2, 0, 2]]
    case = make_case(115)
    settings = {"category_contrast": "prototypes", "similarity": similarity}
    expected = value_and_grad(
        differentiable, category_wise, case.but(labels=labels), "float32", settings
    )
    tiny = case.but(labels=labels + mass * np.eye(4)[1])
    found = value_and_grad(differentiable, category_wise, tiny, "float32", settings)
    for actual, reference in zip(found, expected, strict=True):
        np.testing.assert_array_equal(actual, reference)
    rows = (differentiable.array(x, "float32") for x in (case.teacher, tiny.labels))
    means = ClassMeans.empty(4, like=differentiable.array(0.0, "float32")).update(*rows)
    assert np.isnan(differentiable.to_numpy(means.prototypes)[1]).all()
    given = np.where(np.arange(16).reshape(4, 4) == 1, np.nan, 3 * np.eye(4))  # class 0 has none
    tiny = tiny.but(keys=Keys(case.teacher, tiny.labels, prototypes=given))
    assert_finite(*value_and_grad(differentiable, category_wise, tiny, "float32", settings))


@pytest.mark.parametrize("gap", [10.0, 20.0, 80.0])
@pytest.mark.parametrize("target_mask", [True, False])
@pytest.mark.parametrize("block_size", ["auto", None])
def test_a_certain_row_loses_nothing_to_cancellation(
    differentiable: Framework, block_size: Any, target_mask: bool, gap: float
) -> None:
    """Where own stands far above the rest, 1 - softmax at own has no digit left in float32."""
    noise = np.random.default_rng(112).integers(-16, 16, size=(2, 5, 5)) / 16
    case = Case(gap * np.eye(5) + noise[0], 64 * np.eye(5) + noise[1], np.arange(5))
    keys = np.exp(case.teacher - case.teacher.max(1, keepdims=True))
    keys /= keys.sum(1, keepdims=True)
    similarity = case.student @ keys.T
    apart = np.exp(similarity - np.diag(similarity)[:, None]) * (1 - np.eye(5))
    odds = apart.sum(1, keepdims=True)
    slope = (apart - np.diag(odds[:, 0])) / (1 + odds) @ keys / 5
    settings = {"target_mask": target_mask, "block_size": block_size}
    for dtype in ("float32", "float64"):
        found, gradient = value_and_grad(differentiable, instance_wise, case, dtype, settings)
        expected = np.log1p(odds).mean()
        assert abs(found - expected) <= GRADIENT_RTOL[dtype] * gap * expected
        assert_gradient(gradient, slope, dtype, scale=gap)


@pytest.mark.parametrize("block_size", ["auto", None, 1])
@pytest.mark.parametrize("gap", [10.0, 20.0])
def test_one_certain_positive_keeps_the_digits_of_its_gradient(
    differentiable: Framework, gap: float, block_size: Any
) -> None:
    """With keys that are one-hot it is ``(softmax(s) - e_y) / B``; at y, ``-Σ_rest softmax``."""
    student = (gap * np.eye(3)).astype("float32")
    teacher = differentiable.array((200 * np.eye(3)).astype("float32"))
    config = MCLDConfig(block_size=block_size)

    def loss(x: Any) -> Any:
        return category_wise(x, teacher, differentiable.array(np.arange(3)), config=config)

    _, gradient = differentiable.value_and_grad(loss, student, "float32")
    odds = np.exp(-gap)
    rest = odds / (1 + 2 * odds) / 3
    expected = rest * (np.ones((3, 3)) - 3 * np.eye(3))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)

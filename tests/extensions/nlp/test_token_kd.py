"""`token_kd_loss` in every backend: value and gradient, dense and stored, beside loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mcld_core.backends.numpy
from mcld_core.extensions.nlp import TopKLogits, token_kd_loss
from mcld_core.extensions.nlp.tokens import TokenLoss
from tests.differences import differences
from tests.extensions.cases import BATCH, CLASSES, TIME, SequenceCase, make_case
from tests.extensions.token_oracles import token_kd
from tests.frameworks import Framework, only
from tests.tolerance import assert_central, assert_gradient, assert_value

SCALE = 10.0
VARIANTS: list[dict[str, Any]] = [
    {},
    {"temperature": 2.0, "shift": True, "ce_weight": 0.7},
    {"ce_weight": 0.5},
    {"divergence": "reverse", "temperature": 2.0},
    {"divergence": "jsd", "mix": 0.3, "temperature": 0.5, "ce_weight": 2.0},
    {"divergence": "tv", "shift": True},
]
KINDS = ["logits", "top", "ragged", "no tail"]

pytestmark = pytest.mark.filterwarnings("ignore:TopKLogits.*of the teacher's mass")


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two rows, so that a case has several, and the last one fewer."""
    monkeypatch.setattr("mcld_core.extensions.nlp.tokens._ENTRIES", 2 * CLASSES)


def teacher_of(case: SequenceCase, kind: str) -> Any:
    """Return logits or `TopKLogits`, in NumPy."""
    if kind == "logits":
        return case.teacher
    stored = TopKLogits.from_logits(case.teacher, 3)
    if kind == "no tail":
        return stored._replace(tail=None)
    if kind == "ragged":  # one class fewer in some tokens, with an id that another one has
        gone = np.logaddexp(stored.tail, stored.values[..., 2])
        even = np.arange(TIME) % 2 == 0
        stored.values[:, even, 2], stored.indices[:, even, 2] = -np.inf, -7
        stored.indices[0, 0, 2] = stored.indices[0, 0, 0]
        stored.tail[:, even] = gone[:, even]
    return stored


def bind(backend: Framework, case: SequenceCase, teacher: Any, **options: Any) -> Any:
    """Return student → loss."""
    dtype = options.pop("dtype", "float64")
    labels, mask = backend.array(case.labels), backend.array(case.mask)
    if isinstance(teacher, TopKLogits):
        values, indices, tail = teacher
        tail = backend.array(tail, dtype) if isinstance(tail, np.ndarray) else tail
        teacher = TopKLogits(backend.array(values, dtype), backend.array(indices), tail)
    else:
        teacher = backend.array(teacher, dtype)
    return lambda student: token_kd_loss(student, teacher, labels, attention_mask=mask, **options)


def expected(case: SequenceCase, teacher: Any, **options: Any) -> float:
    teacher = tuple(teacher) if isinstance(teacher, TopKLogits) else teacher
    return token_kd(case.student, teacher, case.labels, case.mask, **options)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_values(backend: Framework, options: dict[str, Any], kind: str, dtype: str) -> None:
    case = make_case(80)
    teacher = teacher_of(case, kind)
    found = bind(backend, case, teacher, dtype=dtype, **options)(backend.array(case.student, dtype))
    assert_value(backend.to_numpy(found), expected(case, teacher, **options), dtype, SCALE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_gradients(differentiable: Framework, options: dict[str, Any], kind: str) -> None:
    check_gradient(differentiable, options, kind)


@pytest.mark.parametrize(("number", "kind"), [(1, "logits"), (1, "ragged"), (4, "no tail")])
def test_compiled(differentiable: Framework, number: int, kind: str) -> None:
    check_gradient(differentiable, VARIANTS[number], kind, compiled=True)


def check_gradient(
    differentiable: Framework, options: dict[str, Any], kind: str, compiled: bool = False
) -> None:
    """Assert that value and gradient are those of the loops."""
    case = make_case(82)
    teacher = teacher_of(case, kind)
    step = bind(differentiable, case, teacher, **options)
    step = differentiable.jit(step) if compiled else step
    value, gradient = differentiable.value_and_grad(step, case.student)
    assert_value(value, expected(case, teacher, **options), scale=SCALE)
    reference = differences(
        lambda x: expected(case.but(student=x), teacher, **options), case.student
    )
    assert_central(gradient, reference, SCALE)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["logits", "top"])
def test_narrow_dtypes(differentiable: Framework, dtype: str, kind: str) -> None:
    case, options = make_case(81), {"ce_weight": 1.0}
    teacher = teacher_of(case, kind)
    value, gradient = differentiable.value_and_grad(
        bind(differentiable, case, teacher, **options), case.student
    )
    student = differentiable.array(case.student, dtype)
    step = bind(differentiable, case, teacher, dtype="float32", **options)
    found, other = differentiable.gradient(step, student)
    assert differentiable.dtype(found) == "float32"
    assert differentiable.dtype(other) == dtype
    assert_value(differentiable.to_numpy(found), value, "float32", SCALE)
    assert_gradient(differentiable.to_numpy(other), gradient, dtype, SCALE)


def test_reductions_and_weights(backend: Framework) -> None:
    case = make_case(83)
    student = backend.array(case.student, "float64")
    valid = case.mask & (case.labels != -100)
    weights = np.random.default_rng(0).random((BATCH, TIME))

    def run(**options: Any) -> np.ndarray:
        return backend.to_numpy(bind(backend, case, case.teacher, **options)(student))

    mean, total, rows, seventh = (
        run(**options)
        for options in ({}, {"reduction": "sum"}, {"reduction": "none"}, {"normalizer": 7})
    )
    assert rows.shape == (BATCH, TIME)
    assert not rows[~valid].any()
    assert_value(rows.sum(), total, scale=SCALE)
    assert_value(total, mean * valid.sum(), scale=SCALE)
    assert_value(seventh, total / 7, scale=SCALE)
    weighted = run(sample_weight=backend.array(weights, "float64"))
    assert_value(weighted, expected(case, case.teacher, weights=weights), scale=SCALE)


def test_one_value_a_token_has_its_own_gradient(differentiable: Framework) -> None:
    from mcld_core.backends import backend_for

    case, weights = make_case(84), np.random.default_rng(0).random((BATCH, TIME))
    factors = differentiable.array(weights, "float64")

    def total(student: Any) -> Any:
        rows = bind(differentiable, case, case.teacher, reduction="none")(student)
        return backend_for("test", rows).sum(rows * factors, None)

    whole = bind(differentiable, case, case.teacher, reduction="sum", sample_weight=factors)
    value, gradient = differentiable.value_and_grad(whole, case.student)
    found, other = differentiable.value_and_grad(total, case.student)
    assert_value(found, value, scale=SCALE)
    assert_gradient(other, gradient, scale=SCALE)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["logits", "top"])
def test_what_a_masked_token_holds_does_not_matter(
    differentiable: Framework, kind: str, compiled: bool
) -> None:
    case = make_case(84)
    valid = case.mask & (case.labels != -100)

    def run(filling: float | None) -> tuple[np.ndarray, np.ndarray]:
        student, theirs = case.student, teacher_of(case, kind)
        if filling is not None:
            student = np.where(valid[..., None], student, filling)
            if kind == "top":
                values = np.where(valid[..., None], theirs.values, filling)
                indices = np.where(valid[..., None], theirs.indices, -1)
                theirs = TopKLogits(values, indices, np.where(valid, theirs.tail, filling))
            else:
                theirs = np.where(valid[..., None], theirs, filling)
        step = bind(differentiable, case, theirs, ce_weight=1.0)
        step = differentiable.jit(step) if compiled else step
        return differentiable.value_and_grad(step, student)

    (value, gradient), (found, other) = run(None), run(np.nan)
    assert_value(found, value, scale=SCALE)
    assert_gradient(other, gradient, scale=SCALE)
    assert not other[~valid].any()


def test_nothing_counts(differentiable: Framework) -> None:
    case = make_case(85)
    step = bind(differentiable, case.but(labels=np.full_like(case.labels, -100)), case.teacher)
    value, gradient = differentiable.value_and_grad(step, case.student)
    assert value == 0.0
    assert not gradient.any()


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
def test_ignored_tokens_are_never_computed(
    backend: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    compute = TokenLoss.with_slope
    monkeypatch.setattr(
        TokenLoss, "with_slope", lambda *args: seen.append(len(args[1])) or compute(*args)
    )
    case = make_case(86)
    backend.value_and_grad(bind(backend, case, case.teacher), case.student)
    assert sum(seen) == (case.mask & (case.labels != -100)).sum()


@pytest.mark.parametrize("backend", only("numpy"), indirect=True)
def test_numpy_leaves_out_ignored_tokens_and_has_the_slope(
    backend: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slope that is written by hand needs no framework: it is that of the loops."""
    seen, whole = [], TokenLoss.whole
    monkeypatch.setattr(
        TokenLoss, "whole", lambda loss, rows: seen.append(len(rows.x)) or whole(loss, rows)
    )
    case = make_case(86)
    bind(backend, case, case.teacher, ce_weight=0.5)(case.student)
    assert sum(seen) == (case.mask & (case.labels != -100)).sum() < BATCH * TIME

    loss = TokenLoss(mcld_core.backends.numpy, "float64", ce_weight=0.5, has_labels=True)
    labels, every = np.arange(TIME) % CLASSES, np.ones((1, TIME), bool)
    value, slope = loss.with_slope(case.student[0], (case.teacher[0], labels))

    def by_loops(x: np.ndarray) -> float:
        return token_kd(x[None], case.teacher[:1], labels[None], every, ce_weight=0.5)

    assert_value(value.mean(), by_loops(case.student[0]), scale=SCALE)
    assert_central(slope / TIME, differences(by_loops, case.student[0]), SCALE)


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
def test_one_array_and_one_backward_pass(backend: Framework) -> None:
    import torch

    case = make_case(87)
    student = torch.from_numpy(case.student).requires_grad_()
    loss = bind(backend, case, case.teacher)(student)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass, and no second derivative"):
        loss.backward()
    loss = bind(backend, case, case.teacher)(student)
    with pytest.raises(RuntimeError, match="one backward pass, and no second derivative"):
        torch.autograd.grad(loss, student, create_graph=True)


@pytest.mark.parametrize("backend", only("tensorflow"), indirect=True)
def test_a_second_derivative_raises(backend: Framework) -> None:
    import tensorflow as tf

    case = make_case(87)
    student = tf.constant(case.student)
    with tf.GradientTape() as outer:
        outer.watch(student)
        with tf.GradientTape() as inner:
            inner.watch(student)
            loss = bind(backend, case, case.teacher)(student)
        gradient = inner.gradient(loss, student)
    with pytest.raises(LookupError, match="no second derivative"):
        outer.gradient(gradient, student)


@pytest.mark.parametrize("divergence", ["forward", "jsd", "tv"])
@pytest.mark.parametrize("kind", ["logits", "top"])
def test_a_padded_vocabulary(differentiable: Framework, divergence: str, kind: str) -> None:
    """Columns of -inf on both sides are columns that are not there (2.0e27 in version 0.2)."""
    case, options = make_case(88), {"divergence": divergence, "ce_weight": 0.5}
    step = bind(differentiable, case, teacher_of(case, kind), **options)
    value, gradient = differentiable.value_and_grad(step, case.student)
    padding = np.full((BATCH, TIME, 2), -np.inf)
    wide, theirs = (np.concatenate([x, padding], -1) for x in (case.student, case.teacher))
    padded = case.but(student=wide, teacher=theirs)
    step = bind(differentiable, padded, teacher_of(padded, kind), **options)
    found, other = differentiable.value_and_grad(step, wide)
    assert_value(found, value, scale=SCALE)
    assert_gradient(other[..., :CLASSES], gradient, scale=SCALE)
    assert not other[..., CLASSES:].any()


def test_where_student_and_teacher_agree_nothing_pulls(differentiable: Framework) -> None:
    """Version 0.2 spread the tail evenly, and had a gradient of 2e-3 here."""
    case = make_case(89)
    for kind in ("logits", "top", "no tail"):
        step = bind(differentiable, case, teacher_of(case, kind), temperature=2.0)
        value, gradient = differentiable.value_and_grad(step, case.teacher)
        assert abs(value) < 1e-14
        assert abs(gradient).max() < 1e-15


def test_ruled_out_by_the_teacher(backend: Framework) -> None:
    """Reverse KL is infinite then: an error where it can be read, no gradient of exactly 0."""
    case = make_case(90)
    teacher = case.teacher.copy()
    teacher[..., 0] = -np.inf
    student = backend.array(case.student, "float64")
    with pytest.raises(ValueError, match="divergence='reverse' is infinite"):
        bind(backend, case, teacher, divergence="reverse")(student)
    masked = case.student.copy()
    masked[..., 0] = -np.inf
    found = bind(backend, case, teacher, divergence="reverse")(backend.array(masked, "float64"))
    narrower = case.but(student=case.student[..., 1:])
    reference = expected(narrower, teacher[..., 1:], divergence="reverse")
    assert_value(backend.to_numpy(found), reference, scale=SCALE)


def test_ignore_index_within_the_vocabulary(backend: Framework) -> None:
    """Without labels no token is ignored, whatever the teacher's arg max is."""
    case = make_case(91)
    student, mask = backend.array(case.student, "float64"), backend.array(case.mask)
    for kind in ("logits", "top"):
        teacher = teacher_of(case, kind)
        given = teacher
        if kind == "top":
            given = TopKLogits(*(backend.array(x, "float64") for x in teacher))
        else:
            given = backend.array(teacher, "float64")
        found = token_kd_loss(student, given, attention_mask=mask, ignore_index=1)
        reference = expected(case.but(labels=None), teacher)
        assert_value(backend.to_numpy(found), reference, scale=SCALE)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0.0}, "temperature needs a finite number > 0"),
    ({"divergence": "js"}, "divergence needs one of forward, reverse, jsd, tv; got 'js'"),
    ({"mix": 1.0}, "mix needs a number in .* got 1"),
    ({"ce_weight": -1.0}, "ce_weight needs a finite number ≥ 0"),
    ({"ce_weight": 1.0, "labels": None}, "ce_weight=1.0 needs labels; got None"),
    ({"shift": "yes"}, "shift needs True or False"),
    ({"ignore_index": 0.5}, "ignore_index needs an int"),
    ({"reduction": "batchmean"}, "reduction needs one of"),
    ({"normalizer": -3}, "normalizer needs a finite number ≥ 0"),
    ({"attention_mask": np.ones((4, 2))}, r"attention_mask needs shape \(4, 3\)"),
    ({"sample_weight": np.ones((4, 2))}, r"sample_weight needs shape \(4, 3\)"),
    ({"labels": np.full((4, 3), 5)}, "needs labels in 0 … 4"),
    ({"labels": np.ones((4, 3, 5))}, r"labels needs shape \(4, 3\), one a token; got \(4, 3, 5\)"),
    ({"teacher": np.ones((4, 3, 6))}, "needs the tokens and the vocabulary of the student"),
    ({"teacher": np.ones((4, 3))}, "teacher needs three axes"),
    ({"teacher": np.ones((4, 3, 5), int)}, "teacher needs a float dtype"),
    ({"teacher": (1,)}, "missing 1 required positional argument: 'weight'"),
]


@pytest.mark.parametrize(("given", "text"), BAD, ids=[text for _, text in BAD])
def test_errors_say_what_to_do(no_default_backend: None, given: dict[str, Any], text: str) -> None:
    case = make_case(85)
    arguments = {"teacher": case.teacher, "labels": case.labels} | given
    with pytest.raises((ValueError, TypeError), match=text):
        token_kd_loss(case.student, **arguments)

"""`window_mcld_loss` and windows in every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcld_core import MCLDConfig, category_wise, mcld_loss
from mcld_core.extensions.timeseries import cut_windows, window_mcld_loss
from tests.differences import slope
from tests.extensions import oracles
from tests.extensions.cases import BATCH, CLASSES, SequenceCase, call, make_case
from tests.frameworks import Framework
from tests.tolerance import assert_central, assert_gradient, assert_value

SCALE = 10.0
WINDOW_LABELS = np.asarray([0, 1, 0, 2])
PLACES: dict[str, Any] = {
    "starts": np.asarray([0, 2, 0, 4]),
    "lengths": np.asarray([3, 3, 3, 3]),
    "series": np.asarray([0, 0, 1, 0]),
}

VARIANTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"weight_ce": 0.5}, {"step_contrast": 0.5, "progress": 0.25}),
    ({"target_mask": False}, {"category": "step"}),
    ({"similarity": "cosine", "key_temperature": 2.0}, {}),
]


def bind(
    backend: Framework,
    case: SequenceCase,
    dtype: str = "float64",
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    arrays: dict[str, Any] = {"labels": WINDOW_LABELS, "mask": case.mask, **PLACES}
    return call(backend, window_mcld_loss, case, dtype, settings, **(arrays | options))


def expected(
    case: SequenceCase, settings: dict[str, Any], labels: Any = WINDOW_LABELS, **options: Any
) -> dict[str, float]:
    by_window = options.pop("category", "window") == "window"
    contrast = options.pop("step_contrast", None)
    steps = options.pop("step_labels", None)
    if steps is None:
        steps = np.repeat(np.asarray(labels)[:, None], case.mask.shape[1], 1)
    return oracles.token_terms(
        case.student,
        case.teacher,
        steps,
        case.mask,
        sequence_labels=labels,
        by_sequence=by_window,
        token_contrast=contrast,
        apart=oracles.overlap(PLACES["starts"], PLACES["lengths"], PLACES["series"]),
        **options,
        **settings,
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("settings", "options"), VARIANTS, ids=str)
def test_windows_of_steps_equal_their_definition(
    backend: Framework, settings: dict[str, Any], options: dict[str, Any], dtype: str
) -> None:
    case = make_case(20)
    loss, terms = bind(backend, case, dtype, settings, return_terms=True, **options)(
        backend.array(case.student, dtype)
    )
    reference = expected(case, settings, **options)
    scale = SCALE * (10.0 if settings.get("similarity") == "cosine" else 1.0)
    assert_value(backend.to_numpy(loss), reference["total"], dtype, scale)
    for name, term in terms.items():
        assert_value(backend.to_numpy(term), reference[name], dtype, scale)


def test_soft_window_labels_and_step_labels(backend: Framework) -> None:
    case = make_case(21)
    soft = np.random.default_rng(21).multinomial(16, np.full(CLASSES, 0.2), BATCH) / 16
    student = backend.array(case.student, "float64")
    found = bind(backend, case, labels=soft)(student)
    assert_value(backend.to_numpy(found), expected(case, {}, soft)["total"], scale=SCALE)
    hard, labels = np.eye(CLASSES, dtype=bool)[WINDOW_LABELS], WINDOW_LABELS
    both = [bind(backend, case, labels=y, **PLACES)(student) for y in (hard, labels)]
    assert_value(*map(backend.to_numpy, both), scale=SCALE)
    options = {"step_labels": case.labels}
    found = bind(backend, case, **options)(student)
    assert_value(backend.to_numpy(found), expected(case, {}, **options)["total"], scale=SCALE)


def test_the_teacher_stands_for_missing_labels(backend: Framework) -> None:
    """Of a step its arg max, of a window the arg max of its mean probabilities."""
    case = make_case(22)
    p = np.exp(case.teacher) / np.exp(case.teacher).sum(-1, keepdims=True)
    whole = np.where(case.mask[..., None], p, 0.0).sum(1).argmax(-1)
    found = bind(backend, case, labels=None)(backend.array(case.student, "float64"))
    reference = expected(case, {}, whole, step_labels=case.teacher.argmax(-1))
    assert_value(backend.to_numpy(found), reference["total"], scale=SCALE)


def test_an_ignored_window_is_as_if_absent(backend: Framework) -> None:
    case = make_case(23)
    labels = np.asarray([0, -100, 0, 2])
    found = bind(backend, case, labels=labels)(backend.array(case.student, "float64"))
    assert_value(backend.to_numpy(found), expected(case, {}, labels)["total"], scale=SCALE)


@pytest.mark.parametrize("axes", [2, 3])
def test_what_a_masked_window_holds_does_not_matter(differentiable: Framework, axes: int) -> None:
    """Logits and soft labels of a window without a valid step, and of masked steps."""
    case = make_case(33)
    mask = case.mask if axes == 3 else case.mask[:, 0]
    soft = np.random.default_rng(33).multinomial(16, np.full(CLASSES, 0.2), BATCH) / 16

    def run(filling: float | None) -> tuple[np.ndarray, np.ndarray]:
        student, teacher, labels = case.student, case.teacher, soft
        if axes == 2:
            student, teacher = student[:, 0], teacher[:, 0]
        if filling is not None:
            student, teacher = (np.where(mask[..., None], x, filling) for x in (student, teacher))
            labels = np.where(case.mask.any(1)[:, None], soft, filling)
        step = bind(differentiable, case.but(teacher=teacher), mask=mask, labels=labels)
        return differentiable.value_and_grad(step, student)

    (value, gradient), (found, other_gradient) = run(None), run(np.nan)
    assert_value(found, value, scale=SCALE)
    assert_gradient(other_gradient, gradient, scale=SCALE)
    assert not other_gradient[~mask].any()


@pytest.mark.parametrize("first", [2**31 - 4, 2**40])
def test_windows_far_out_overlap_like_any_other(backend: Framework, first: int) -> None:
    """Time stamps as starts: beyond 32 bits, or a window that ends there."""
    case = make_case(34)
    student, near = backend.array(case.student, "float64"), bind(backend, case)
    far = bind(backend, case, starts=PLACES["starts"] + first, series=PLACES["series"] + 2**40)
    assert_value(backend.to_numpy(far(student)), backend.to_numpy(near(student)))


@pytest.mark.parametrize(("settings", "options"), VARIANTS[:3], ids=str)
def test_gradient_equals_central_differences(
    differentiable: Framework, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    case = make_case(24)
    _, gradient = differentiable.value_and_grad(
        bind(differentiable, case, settings=settings, **options), case.student
    )
    direction = np.random.default_rng(25).normal(size=case.student.shape)

    def along(k: float) -> Any:
        return expected(case.but(student=case.student + k * direction), settings, **options)[
            "total"
        ]

    assert_central((gradient * direction).sum(), slope(along), SCALE)


def rows_expected(
    student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, places: dict[str, Any]
) -> float:
    """One row a window: the oracle of windows of one step, without a contrast of steps."""
    return oracles.token_terms(
        student[:, None],
        teacher[:, None],
        labels[:, None],
        sequence_labels=labels,
        by_sequence=True,
        token_contrast=0.0,
        apart=oracles.overlap(places["starts"], places["lengths"], places["series"]),
    )["total"]


def test_without_places_it_is_the_loss_of_rows(backend: Framework) -> None:
    case = make_case(28)
    student, teacher = (backend.array(x[:, 0], "float64") for x in (case.student, case.teacher))
    labels, mask = backend.array(WINDOW_LABELS), np.asarray([True, True, False, True])
    found = window_mcld_loss(student, teacher, labels, mask=backend.array(mask))
    reference = mcld_loss(student, teacher, labels, where=backend.array(mask))
    assert_value(backend.to_numpy(found), backend.to_numpy(reference))
    ints = window_mcld_loss(student, teacher, labels, mask=backend.array(mask.astype("int64")))
    assert_value(backend.to_numpy(ints), backend.to_numpy(reference))


@given(
    seed=st.integers(0, 2**16),
    starts=st.lists(st.integers(0, 9), min_size=6, max_size=6),
    lengths=st.lists(st.integers(1, 5), min_size=6, max_size=6),
    series=st.lists(st.integers(0, 1), min_size=6, max_size=6),
)
def test_overlapping_windows_are_never_negatives(
    backend: Framework, seed: int, starts: list[int], lengths: list[int], series: list[int]
) -> None:
    student, teacher = np.random.default_rng(seed).normal(size=(2, 6, 6))
    labels = np.arange(6) // 2
    places = {"starts": starts, "lengths": lengths, "series": series}
    found = window_mcld_loss(
        backend.array(student, "float64"),
        backend.array(teacher, "float64"),
        backend.array(labels),
        **{name: backend.array(np.asarray(x)) for name, x in places.items()},
    )
    reference = rows_expected(student, teacher, labels, places)
    assert_value(backend.to_numpy(found), reference, scale=SCALE)


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    length=st.integers(1, 6),
    data=st.data(),
)
def test_windows_cover_their_series(lengths: list[int], length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, length))
    series = [np.arange(1, 1 + 2 * n).reshape(n, 2) for n in lengths]
    windows = cut_windows(series, length, stride)
    np.testing.assert_array_equal(windows.mask.sum(1), windows.lengths)
    assert (windows.values[~windows.mask] == 0).all()
    covered = [np.zeros(n, int) for n in lengths]
    for i, (number, start) in enumerate(zip(windows.series, windows.starts, strict=True)):
        count = windows.lengths[i]
        cut = series[number][start : start + count]
        np.testing.assert_array_equal(windows.values[i, :count], cut)
        covered[number][start : start + count] += 1
    assert all((steps > 0).all() for steps in covered)
    # no window is superfluous: the last of a series reaches a step that no other does
    for number, n in enumerate(lengths):
        own = windows.starts[windows.series == number]
        assert len(own) == 1 or own[-2] + length < n


BAD: list[tuple[dict[str, Any], str]] = [
    ({"student": np.zeros(4)}, "need one shape"),
    ({"student": np.zeros((4, 3, 6))}, "need one shape"),
    ({"starts": [0, 1, 2, 3]}, r"starts and lengths are needed together.*lengths None"),
    ({"series": [0, 1, 2, 3]}, "starts and lengths are needed together"),
    ({"starts": [0, 1], "lengths": 2}, r"starts needs shape \(4,\)"),
    ({"starts": [0.0, 1.0, 2.0, 3.0], "lengths": 2}, "starts needs an integer dtype; got float"),
    ({"starts": [0, 1, 2, 3], "lengths": 2.0}, "lengths needs an integer dtype; got float"),
    ({"step_contrast": -1.0}, r"step_contrast needs a finite number ≥ 0; got -1\.0"),
    ({"mask": np.ones((4, 2), bool)}, r"mask needs shape \(4, 3\)"),
    ({"category": "token"}, "category needs one of window, step; got 'token'"),
    ({"labels": np.zeros((4, 2))}, r"labels need shape \(4,\)"),
    ({"step_labels": np.zeros((4, 2), int)}, r"step_labels need shape \(4, 3\)"),
]


@pytest.mark.parametrize(("changes", "text"), BAD, ids=[text for _, text in BAD])
def test_errors_say_what_to_do(
    no_default_backend: None, changes: dict[str, Any], text: str
) -> None:
    case = make_case(32)
    options = dict(changes)
    student, labels = options.pop("student", case.student), options.pop("labels", WINDOW_LABELS)
    with pytest.raises((ValueError, TypeError), match=text):
        window_mcld_loss(student, case.teacher, labels, **options)


def test_prototypes_are_of_classes_however_many_windows(backend: Framework) -> None:
    rows, labels = np.random.default_rng(36).normal(size=(2, 6, 3)), np.array([0, 1, 2, 2, 1, 1])
    student, teacher, labels = (backend.array(x) for x in (*rows, labels))
    config = MCLDConfig(category_contrast="prototypes")
    windows = student[:, None], teacher[:, None], labels
    _, terms = window_mcld_loss(*windows, config=config, return_terms=True)
    wanted = category_wise(student, teacher, labels, config=config)
    assert_value(backend.to_numpy(terms["category"]), backend.to_numpy(wanted), "float64")


def test_errors_of_the_helpers() -> None:
    with pytest.raises(ValueError, match="stride needs an int in 1 … 2; got 3"):
        cut_windows([np.zeros(5)], 2, 3)
    with pytest.raises(ValueError, match=r"with a step at least, .* got \(0,\) of series 1"):
        cut_windows([np.zeros(5), np.zeros(0)], 2)
    with pytest.raises(ValueError, match=r"all of one width; got \(5, 2\) of series 1"):
        cut_windows([np.zeros(5), np.zeros((5, 2))], 2)
    with pytest.raises(ValueError, match="series needs a list of arrays"):
        cut_windows([], 2)
    with pytest.raises(ValueError, match="step_labels need logits"):
        window_mcld_loss(np.zeros((2, 3)), np.zeros((2, 3)), step_labels=np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="weight_ce needs labels"):
        window_mcld_loss(np.eye(2), np.eye(2), config=MCLDConfig(weight_ce=1.0))

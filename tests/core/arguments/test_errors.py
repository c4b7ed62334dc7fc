"""Every error of the contract, with its text: which argument, what came, what to do."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from mcld_core import (
    MCLDConfig,
    TeacherKeys,
    category_wise,
    check_finite,
    dkd_loss,
    instance_wise,
    kd_loss,
    mcld_loss,
    sample_wise,
    select_classes,
)
from tests.cases import make_case
from tests.frameworks import Framework, only

CASE = make_case(161)
LOSSES = [mcld_loss, instance_wise, sample_wise, category_wise, kd_loss, dkd_loss]
LABELLED = [mcld_loss, instance_wise, sample_wise, category_wise, dkd_loss]
KEYED = [mcld_loss, instance_wise, category_wise]
COMPARING = [instance_wise, category_wise]
"""Whose labels may be any ids ≥ 0."""


@contextmanager
def explained(error: type[Exception], function: str, *facts: str) -> Iterator[None]:
    """Expect an error that starts with the function and holds every fact."""
    with pytest.raises(error) as caught:
        yield
    text = str(caught.value)
    assert text.startswith(f"{function}: "), text
    for fact in facts:
        assert fact in text, f"{fact!r} is not in: {text}"


def call(backend: Framework, loss: Callable[..., Any], *replaced: Any, **options: Any) -> Any:
    """Call a loss on the case with its first arguments replaced (None keeps one)."""
    given = [*replaced, None, None, None][:3]
    arrays = [CASE.student, CASE.teacher, CASE.labels]
    arguments = [
        backend.array(usual if other is None else other)
        for usual, other in zip(arrays, given, strict=True)
    ]
    options = {
        name: backend.array(x) if isinstance(x, np.ndarray) else x for name, x in options.items()
    }
    return loss(*arguments[: 2 if loss is kd_loss else 3], **options)


@pytest.mark.parametrize("loss", LOSSES)
class TestLogits:
    """What every loss says about its logits."""

    def test_class_counts(self, backend: Framework, loss: Any) -> None:
        facts = ("student_logits", "teacher_logits", "classes", "(5, 4)", "(5, 7)", "Map")
        with explained(ValueError, loss.__name__, *facts):
            call(backend, loss, None, np.zeros((5, 7)))

    def test_batch_sizes(self, backend: Framework, loss: Any) -> None:
        facts = ("student_logits", "teacher_logits", "batch", "(5, 4)", "(6, 4)")
        with explained(ValueError, loss.__name__, *facts):
            call(backend, loss, None, np.zeros((6, 4)))

    @pytest.mark.parametrize("shape", [(), (4,), (2, 5, 4)])
    def test_ranks(self, backend: Framework, loss: Any, shape: tuple[int, ...]) -> None:
        for place, name in enumerate(("student_logits", "teacher_logits")):
            arguments: list[Any] = [None, None]
            arguments[place] = np.zeros(shape)
            with explained(ValueError, loss.__name__, name, str(shape), "(batch, classes)"):
                call(backend, loss, *arguments)

    @pytest.mark.parametrize("dtype", ["int64", "int32", "bool"])
    def test_integer_logits(self, backend: Framework, loss: Any, dtype: str) -> None:
        for place, name in enumerate(("student_logits", "teacher_logits")):
            arguments: list[Any] = [None, None]
            arguments[place] = np.zeros((5, 4), dtype)
            with explained(TypeError, loss.__name__, name, dtype, "float"):
                call(backend, loss, *arguments)

    def test_no_class(self, backend: Framework, loss: Any) -> None:
        empty = np.zeros((5, 0))
        with explained(ValueError, loss.__name__, "student_logits", "(5, 0)", "one class"):
            call(backend, loss, empty, empty, np.zeros(5, np.int64))

    def test_reduction(self, backend: Framework, loss: Any) -> None:
        facts = ("reduction", "'mean'", "'sum'", "'none'", "'avg'")
        with explained(ValueError, loss.__name__, *facts):
            call(backend, loss, reduction="avg")

    def test_sample_weight(self, backend: Framework, loss: Any) -> None:
        name = loss.__name__
        with explained(ValueError, name, "sample_weight", "(5,)", "(3,)"):
            call(backend, loss, sample_weight=np.ones(3))
        with explained(ValueError, name, "sample_weight", "(5,)", "(5, 1)"):
            call(backend, loss, sample_weight=np.ones((5, 1)))
        with explained(ValueError, name, "sample_weight", "≥ 0", "-0.5", "row 3"):
            call(backend, loss, sample_weight=np.array([1, 1, 1, -0.5, 1]))

    def test_where(self, backend: Framework, loss: Any) -> None:
        name = loss.__name__
        with explained(ValueError, name, "where", "(5,)", "(4,)"):
            call(backend, loss, where=np.ones(4, bool))
        with explained(TypeError, name, "where", "bool", "True = keep", "float64"):
            call(backend, loss, where=np.ones(5))


@pytest.mark.parametrize("loss", LABELLED)
class TestLabels:
    """What every loss with labels says about them."""

    @pytest.mark.parametrize("label", [-1, 4, 1000])
    def test_out_of_range(self, backend: Framework, loss: Any, label: int) -> None:
        labels = np.array([0, 1, label, 3, 0])
        if label > 0 and loss in COMPARING:
            call(backend, loss, None, None, labels)
            return
        bound = "≥ 0" if loss in COMPARING else "0 … 3"
        facts = ("labels", bound, "ignore_index", str(label), "row 2")
        with explained(ValueError, loss.__name__, *facts):
            call(backend, loss, None, None, labels)

    def test_out_of_range_in_a_dropped_row(self, backend: Framework, loss: Any) -> None:
        labels = np.array([0, 1, 77, 3, 0])
        where = np.array([True, True, False, True, True])
        assert np.isfinite(float(call(backend, loss, None, None, labels, where=where)))

    def test_float_dtype(self, backend: Framework, loss: Any) -> None:
        with explained(TypeError, loss.__name__, "labels", "(5,)", "float64", "integer"):
            call(backend, loss, None, None, np.zeros(5))

    def test_length(self, backend: Framework, loss: Any) -> None:
        with explained(ValueError, loss.__name__, "labels", "(5,)", "(3,)"):
            call(backend, loss, None, None, np.zeros(3, np.int64))

    @pytest.mark.parametrize("shape", [(5, 3), (4, 4), (5, 4, 1)])
    def test_soft_shape(self, backend: Framework, loss: Any, shape: tuple[int, ...]) -> None:
        if shape == (5, 3) and loss in COMPARING:
            call(backend, loss, None, None, np.full(shape, 1 / 3))
            return
        wide = "(5, any)" if loss in COMPARING else "(5, 4)"
        with explained(ValueError, loss.__name__, "labels", wide, str(shape)):
            call(backend, loss, None, None, np.full(shape, 0.25))

    def test_soft_values(self, backend: Framework, loss: Any) -> None:
        for row in ([0.5, 0.5, 0.5, 0.5], [1.5, -0.5, 0, 0], [0, 0, 0, 0]):
            soft = np.eye(4)[[0, 1, 2, 3, 0]]
            soft[1] = row
            facts = ("labels", "soft", "≥ 0", "sum to 1", "row 1")
            with explained(ValueError, loss.__name__, *facts):
                call(backend, loss, None, None, soft)


@pytest.mark.parametrize("loss", KEYED)
class TestKeys:
    """What the terms that contrast rows say about the keys."""

    def raises(
        self,
        backend: Framework,
        loss: Any,
        error: type[Exception],
        facts: tuple[str, ...],
        **changed: Any,
    ) -> None:
        """Expect an error for keys that differ from good ones in some fields."""
        fields: dict[str, Any] = {"logits": np.zeros((9, 4)), "labels": np.zeros(9, np.int64)}
        keys = {
            name: backend.array(x) if isinstance(x, np.ndarray) else x
            for name, x in (fields | changed).items()
        }
        with explained(error, loss.__name__, *facts):
            call(backend, loss, keys=TeacherKeys(**keys))

    def test_shapes(self, backend: Framework, loss: Any) -> None:
        facts = ("keys.logits", "classes", "(9, 6)", "Map")
        self.raises(backend, loss, ValueError, facts, logits=np.zeros((9, 6)))
        self.raises(backend, loss, ValueError, ("keys.logits", "(9,)"), logits=np.zeros(9))
        labels = np.zeros(8, np.int64)
        self.raises(backend, loss, ValueError, ("keys.labels", "(9,)", "(8,)"), labels=labels)
        where = np.ones(5, bool)
        self.raises(backend, loss, ValueError, ("keys.where", "(9,)", "(5,)"), where=where)

    def test_dtypes(self, backend: Framework, loss: Any) -> None:
        logits = np.zeros((9, 4), np.int64)
        self.raises(backend, loss, TypeError, ("keys.logits", "float", "int64"), logits=logits)
        self.raises(
            backend, loss, TypeError, ("keys.labels", "integer", "float64"), labels=np.zeros(9)
        )
        self.raises(backend, loss, TypeError, ("keys.where", "bool"), where=np.ones(9))

    def test_label_out_of_range(self, backend: Framework, loss: Any) -> None:
        wrong, bound = (-9, "≥ 0") if loss in COMPARING else (9, "0 … 3")
        labels = np.array([0, 0, 0, 0, 0, 0, wrong, 0, 0])
        facts = ("keys.labels", bound, str(wrong), "row 6")
        self.raises(backend, loss, ValueError, facts, labels=labels)

    @pytest.mark.parametrize("start", [-1, 5])
    def test_own_rows_outside_the_keys(self, backend: Framework, loss: Any, start: int) -> None:
        facts = ("own_start", str(start), "9")
        self.raises(backend, loss, ValueError, facts, own_start=start)

    def test_fewer_keys_than_rows(self, backend: Framework, loss: Any) -> None:
        logits, labels = np.zeros((3, 4)), np.zeros(3, np.int64)
        facts = ("keys", "5", "3")
        self.raises(backend, loss, ValueError, facts, logits=logits, labels=labels)


def test_prototypes_of_another_shape(backend: Framework) -> None:
    config = MCLDConfig(category_contrast="prototypes")
    keys = TeacherKeys(
        backend.array(CASE.teacher),
        backend.array(CASE.labels),
        prototypes=backend.array(np.zeros((5, 4))),
    )
    with explained(ValueError, "category_wise", "prototypes", "(4, 4)", "(5, 4)"):
        call(backend, category_wise, keys=keys, config=config)


def test_columns_with_gathered_keys(backend: Framework) -> None:
    config = MCLDConfig(category_contrast="columns")
    keys = TeacherKeys(backend.array(CASE.teacher), normalizer=backend.array(np.float64(5)))
    with explained(ValueError, "mcld_loss", "columns", "gathered keys", "'labels'"):
        call(backend, mcld_loss, keys=keys, config=config)


@pytest.mark.parametrize(
    ("field", "value", "fact"),
    [
        ("temperature", 0.0, "> 0"),
        ("temperature", -1, "> 0"),
        ("temperature", float("nan"), "> 0"),
        ("key_temperature", 0, "> 0"),
        ("sample_temperature", -4.0, "> 0"),
        ("weight_instance", -1.0, "≥ 0"),
        ("weight_sample", -0.25, "≥ 0"),
        ("weight_category", float("nan"), "≥ 0"),
        ("weight_ce", -1, "≥ 0"),
        ("beta", -8.0, "≥ 0"),
        ("category_warmup", -0.1, "≥ 0"),
        ("category_warmup", float("inf"), "finite"),
        ("sample_temperature", float("inf"), "finite"),
        ("weight_sample", float("inf"), "finite"),
        ("similarity", "euclid", "probability, pearson, cosine, dot"),
        ("category_contrast", "rows", "labels, prototypes, columns"),
        ("block_size", 0, "'auto'"),
        ("block_size", "large", "'auto'"),
    ],
)
def test_config_values_are_checked_at_construction(field: str, value: Any, fact: str) -> None:
    with explained(ValueError, "MCLDConfig", field, fact, f"got {value!r}"):
        MCLDConfig(**{field: value})


@pytest.mark.parametrize("value", [None, "0.25", [1.0]])
def test_config_values_that_are_no_numbers(value: Any) -> None:
    """None stands for the default τ, and for nothing else."""
    fields = [field.name for field in dataclasses.fields(MCLDConfig) if field.type == "Scalar"]
    assert len(fields) == 8
    for field in fields:
        with explained(TypeError, "MCLDConfig", field, "finite number", f"got {value!r}"):
            MCLDConfig(**{field: value})
    if value is not None:
        with explained(TypeError, "MCLDConfig", "temperature", "finite number"):
            MCLDConfig(temperature=value)


@pytest.mark.parametrize("value", [0, 0.0, -1.0, float("inf")])
def test_temperatures_of_the_baselines(backend: Framework, value: float) -> None:
    with explained(ValueError, "kd_loss", "temperature", "> 0", f"got {value!r}"):
        call(backend, kd_loss, temperature=value)
    with explained(ValueError, "dkd_loss", "temperature", "> 0", f"got {value!r}"):
        call(backend, dkd_loss, temperature=value)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_weights_of_dkd(backend: Framework, name: str) -> None:
    with explained(ValueError, "dkd_loss", name, "≥ 0", "-1.0"):
        call(backend, dkd_loss, **{name: -1.0})


@pytest.mark.parametrize(
    ("mapping", "error", "facts"),
    [
        ([0, 4], ValueError, ("0 … 3", "[0, 4]")),
        ([-1, 0], ValueError, ("0 … 3", "[-1, 0]")),
        ([2**33, 0], ValueError, ("0 … 3", "8589934592")),
        ([[0, 1]], ValueError, ("0 … 3", "[[0, 1]]")),
        ([], ValueError, ("0 … 3", "[]")),
        (3, ValueError, ("0 … 3", "got 3")),
        ([1, 0, 1], ValueError, ("each class once", "got 1 2 times")),
        ([0.7, 1.2], TypeError, ("int classes", "[0.7, 1.2]")),
        (np.array([0.0, 1.0]), TypeError, ("int classes", "[0.0, 1.0]")),
        ([True, False], TypeError, ("int classes", "[True, False]")),
        (["cat"], TypeError, ("int classes", "['cat']")),
        (None, TypeError, ("int classes", "None")),
    ],
    ids=repr,
)
def test_mapping_of_classes(
    backend: Framework, mapping: Any, error: type[Exception], facts: tuple[str, ...]
) -> None:
    with explained(error, "select_classes", "mapping", *facts):
        select_classes(backend.array(CASE.teacher), mapping)


def test_logits_whose_classes_are_mapped(backend: Framework) -> None:
    for shape in ((4,), (2, 5, 4)):
        with explained(ValueError, "select_classes", "logits", "(batch, classes)", str(shape)):
            select_classes(backend.array(np.zeros(shape)), [0])
    with explained(TypeError, "select_classes", "logits", "float", "int64"):
        select_classes(backend.array(np.zeros((5, 4), np.int64)), [0])
    mapping = backend.array(np.array([2, 0]))
    found = select_classes(backend.array(CASE.teacher), mapping)
    np.testing.assert_array_equal(backend.to_numpy(found), CASE.teacher[:, [2, 0]])


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
@pytest.mark.parametrize("place", ["teacher_logits", "labels", "where", "sample_weight", "keys"])
def test_devices_that_differ(backend: Framework, place: str) -> None:
    """The second device is torch's storage-less one, which every machine has."""
    student = backend.array(CASE.student)
    arguments: dict[str, Any] = {"teacher_logits": backend.array(CASE.teacher)}
    other = {
        "teacher_logits": backend.array(CASE.teacher),
        "labels": backend.array(CASE.labels),
        "where": backend.array(np.ones(5, bool)),
        "sample_weight": backend.array(np.ones(5)),
        "keys": backend.array(CASE.teacher),
    }[place].to("meta")
    arguments[place] = TeacherKeys(other) if place == "keys" else other
    with explained(ValueError, "mcld_loss", place, "meta", "cpu", "move"):
        mcld_loss(student, **arguments)


class TestCheckFinite:
    """The eager helper that names the first bad row."""

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_student(self, backend: Framework, bad: float) -> None:
        student = CASE.student.copy()
        student[3, 2] = bad
        with explained(ValueError, "check_finite", "student_logits", "row 3", str(bad)):
            check_finite(backend.array(student), backend.array(CASE.teacher))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_teacher(self, backend: Framework, bad: float) -> None:
        teacher = CASE.teacher.copy()
        teacher[[1, 4], 0] = bad
        with explained(ValueError, "check_finite", "teacher_logits", "row 1", str(bad)):
            check_finite(backend.array(CASE.student), backend.array(teacher))

    def test_absent_classes_of_the_teacher(self, backend: Framework) -> None:
        teacher = CASE.teacher.copy()
        absent = (int(CASE.labels[2]) + 1) % teacher.shape[1]
        teacher[2, absent] = -np.inf
        student, given = backend.array(CASE.student), backend.array(teacher)
        labels = backend.array(CASE.labels)
        assert check_finite(student, given, labels) is None
        place = f"-inf in row 2, class {absent}"
        for similarity in ("pearson", "cosine", "dot"):
            with explained(ValueError, "check_finite", "teacher_logits", place):
                check_finite(student, given, similarity=similarity)
        at_label = np.where(np.arange(len(CASE.labels)) == 2, absent, CASE.labels)
        soft = np.eye(teacher.shape[1])[at_label]
        for targets in (at_label, soft):
            with explained(ValueError, "check_finite", "teacher_logits", place):
                check_finite(student, given, backend.array(targets))
        with explained(ValueError, "check_finite", "labels needs", "(5,)", "(1,)"):
            check_finite(student, given, labels[:1])
        teacher[2] = -np.inf
        with explained(ValueError, "check_finite", "teacher_logits", "-inf in row 2, class 0"):
            check_finite(student, backend.array(teacher))

    def test_good_logits_pass_in_silence(self, backend: Framework) -> None:
        for dtype in backend.dtypes:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                student = backend.array(CASE.student, dtype)
                assert check_finite(student, backend.array(CASE.teacher, dtype)) is None

    def test_probabilities_warn(self, backend: Framework) -> None:
        probabilities = np.exp(CASE.teacher) / np.exp(CASE.teacher).sum(-1, keepdims=True)
        with pytest.warns(UserWarning, match=r"check_finite: .*teacher_logits.*probabilities"):
            check_finite(backend.array(CASE.student), backend.array(probabilities))
        with pytest.warns(UserWarning, match=r"check_finite: .*student_logits.*probabilities"):
            check_finite(backend.array(probabilities), backend.array(CASE.teacher))

"""Every error of the contract, with its text: which argument, what came, what to do."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import mcld_core
from mcld_core import (
    MCLDConfig,
    TeacherBank,
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
from mcld_core.extensions.nlp import TopKLogits
from mcld_core.extensions.teachers import adaptive_mcld_loss
from tests.cases import make_case
from tests.frameworks import Framework, only

CASE = make_case(161)
LOSSES = [mcld_loss, instance_wise, sample_wise, category_wise, kd_loss, dkd_loss]
LABELLED = [loss for loss in LOSSES if loss is not kd_loss]
KEYED = [mcld_loss, instance_wise, category_wise]
COMPARING = [instance_wise, category_wise]
"""Whose labels may be any ids ≥ 0."""
KEPT = np.array([True, True, False, True, True])
NAN, INF = float("nan"), float("inf")


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


Refusal = tuple[type[Exception], tuple[Any, ...], dict[str, Any], tuple[str, ...]]
LOGITS: list[Refusal] = [
    (ValueError, (None, np.zeros((5, 7))), {},
     ("student_logits", "teacher_logits", "classes", "(5, 4)", "(5, 7)", "Map")),
    (ValueError, (None, np.zeros((6, 4))), {}, ("teacher_logits", "batch", "(5, 4)", "(6, 4)")),
    *((ValueError, (np.zeros(shape),), {}, ("student_logits", str(shape), "(batch, classes)"))
      for shape in ((), (4,), (2, 5, 4))),
    (ValueError, (None, np.zeros((2, 5, 4))), {}, ("teacher_logits", "(2, 5, 4)")),
    *((TypeError, (np.zeros((5, 4), dtype),), {}, ("student_logits", dtype, "float"))
      for dtype in ("int64", "int32", "bool")),
    (TypeError, (None, np.zeros((5, 4), int)), {}, ("teacher_logits", "int64", "float")),
    (ValueError, (np.zeros((5, 0)), np.zeros((5, 0)), np.zeros(5, int)), {},
     ("student_logits", "(5, 0)", "one class")),
    (ValueError, (), {"reduction": "avg"}, ("reduction", "one of mean, sum, none", "'avg'")),
    (ValueError, (), {"sample_weight": np.ones(3)}, ("sample_weight", "(5,)", "(3,)")),
    (ValueError, (), {"sample_weight": np.ones((5, 1))}, ("sample_weight", "(5,)", "(5, 1)")),
    *((ValueError, (), {"sample_weight": np.array([1, 1, bad, 1.0, 1])},
       ("sample_weight", "finite numbers ≥ 0", f"{bad} in row 2"))
      for bad in (-0.5, NAN, INF, -INF)),
    (ValueError, (), {"where": np.ones(4, bool)}, ("where", "(5,)", "(4,)")),
    (TypeError, (), {"where": np.ones(5)}, ("where", "bool", "True = keep", "float64")),
]  # fmt: skip


@pytest.mark.parametrize(("error", "replaced", "options", "facts"), LOGITS)
def test_what_every_loss_refuses(
    backend: Framework, error: Any, replaced: Any, options: Any, facts: tuple[str, ...]
) -> None:
    for loss in LOSSES:
        with explained(error, loss.__name__, *facts):
            call(backend, loss, *replaced, **options)


def with_label(label: int) -> np.ndarray:
    return np.array([0, 1, label, 3, 0])


def with_soft(row: list[float]) -> np.ndarray:
    soft = np.eye(4)[[0, 1, 2, 3, 0]]
    soft[1] = row
    return soft


LABELS: list[tuple[type[Exception], np.ndarray, tuple[str, ...]]] = [
    (ValueError, with_label(-1), ("ignore_index", "-1", "row 2")),
    (TypeError, np.zeros(5), ("(5,)", "float64", "integer")),
    (ValueError, np.zeros(3, int), ("(5,)", "(3,)")),
    (ValueError, np.full((4, 4), 0.25), ("(4, 4)",)),
    (ValueError, np.full((5, 4, 1), 0.25), ("(5, 4, 1)",)),
    *((ValueError, with_soft(row), ("soft", "≥ 0", "sum to 1", "row 1"))
      for row in ([0.55, 0.5, 0, 0], [1.5, -0.5, 0, 0], [0, 0, 0, 0])),
]  # fmt: skip
OF_CLASSES = [
    (ValueError, with_label(4), ("0 … 3", "ignore_index", "4 in row 2")),
    (ValueError, with_label(1000), ("0 … 3", "1000", "row 2")),
    (ValueError, np.full((5, 3), 1 / 3), ("(5, 4)", "(5, 3)")),
]
"""What the losses that only compare labels take."""


@pytest.mark.parametrize(("error", "labels", "facts"), LABELS + OF_CLASSES)
def test_labels_that_are_refused(
    backend: Framework, error: Any, labels: Any, facts: tuple[str, ...]
) -> None:
    for loss in LABELLED:
        if loss in COMPARING and any(labels is x for _, x, _ in OF_CLASSES):
            call(backend, loss, None, None, labels)
            continue
        with explained(error, loss.__name__, "labels", *facts):
            call(backend, loss, None, None, labels)


def test_a_dropped_row_may_have_any_label_and_weight(backend: Framework) -> None:
    for loss in LABELLED:
        found = call(backend, loss, None, None, with_label(77), where=KEPT)
        assert np.isfinite(float(found))
        weight = np.where(KEPT, 1.0, NAN)
        assert np.isfinite(float(call(backend, loss, sample_weight=weight, where=KEPT)))


WRONG_KEYS: list[tuple[type[Exception], dict[str, Any], tuple[str, ...]]] = [
    (ValueError, {"logits": np.zeros((9, 6))}, ("keys.logits", "classes", "(9, 6)", "Map")),
    (ValueError, {"logits": np.zeros(9)}, ("keys.logits", "(9,)")),
    (ValueError, {"labels": np.zeros(8, int)}, ("keys.labels", "(9,)", "(8,)")),
    (ValueError, {"where": np.ones(5, bool)}, ("keys.where", "(9,)", "(5,)")),
    (TypeError, {"logits": np.zeros((9, 4), int)}, ("keys.logits", "float", "int64")),
    (TypeError, {"labels": np.zeros(9)}, ("keys.labels", "integer", "float64")),
    (TypeError, {"where": np.ones(9)}, ("keys.where", "bool")),
    (ValueError, {"labels": np.where(np.arange(9) == 6, -9, 0)}, ("keys.labels", "-9", "row 6")),
    (ValueError, {"own_start": -1}, ("own_start", "-1", "9")),
    (ValueError, {"own_start": 5}, ("own_start", "5", "9")),
    (TypeError, {"own_start": 1.5}, ("keys.own_start needs one int; got 1.5",)),
    (TypeError, {"own_start": "a"}, ("keys.own_start needs an array of numbers; got 'a'",)),
    (TypeError, {"own_start": [0, 0]}, ("keys.own_start needs one int; got [0, 0]",)),
    (ValueError, {"logits": np.zeros((3, 4)), "labels": np.zeros(3, int)}, ("keys", "5", "3")),
    (ValueError, {"normalizer": NAN}, ("keys.normalizer needs a finite number ≥ 0; got nan",)),
    (ValueError, {"normalizer": -1.0}, ("keys.normalizer needs a finite number ≥ 0; got -1.0",)),
    (ValueError, {"normalizer": np.ones(3)}, ("keys.normalizer needs one number; got shape (3,)",)),
]  # fmt: skip


@pytest.mark.parametrize(("error", "changed", "facts"), WRONG_KEYS)
def test_keys_that_are_refused(
    backend: Framework, error: Any, changed: dict[str, Any], facts: tuple[str, ...]
) -> None:
    fields = {"logits": np.zeros((9, 4)), "labels": np.zeros(9, int)} | changed
    keys = {n: backend.array(x) if isinstance(x, np.ndarray) else x for n, x in fields.items()}
    for loss in KEYED:
        with explained(error, loss.__name__, *facts):
            call(backend, loss, keys=TeacherKeys(**keys))


def test_keys_of_another_kind(backend: Framework) -> None:
    bank = TeacherBank.from_logits(backend.array(CASE.teacher))
    for loss in KEYED:
        for keys, facts in (
            (bank, ("TeacherBank", "bank.keys(teacher_logits, labels)")),
            (np.zeros((9, 4)), ("TeacherKeys(logits, labels)",)),
            ((CASE.teacher, CASE.labels), ("TeacherKeys(logits, labels)",)),
        ):
            with explained(TypeError, loss.__name__, "keys needs TeacherKeys", *facts):
                call(backend, loss, keys=keys)
    with explained(TypeError, "mcld_loss", "keys needs TeacherKeys", "TeacherBank"):
        call(backend, adaptive_mcld_loss, keys=bank, reliability=np.ones(5))


def test_prototypes_and_columns(backend: Framework) -> None:
    teacher, labels = backend.array(CASE.teacher), backend.array(CASE.labels)
    config = MCLDConfig(category_contrast="prototypes")
    keys = TeacherKeys(teacher, labels, prototypes=backend.array(np.zeros((5, 4))))
    with explained(ValueError, "category_wise", "prototypes", "(4, 4)", "(5, 4)"):
        call(backend, category_wise, keys=keys, config=config)
    config = MCLDConfig(category_contrast="columns")
    keys = TeacherKeys(teacher, normalizer=backend.array(np.float64(5)))
    with explained(ValueError, "mcld_loss", "columns", "gathered keys", "'labels'"):
        call(backend, mcld_loss, keys=keys, config=config)


OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(({"progress": x}, ValueError, f"progress needs a finite number in 0 … 1; got {x}")
      for x in (1.5, -0.1, NAN, INF, np.array(NAN))),
    ({"progress": np.float32(2)}, ValueError, "progress needs a finite number in 0 … 1; got 2.0"),
    *(({"progress": x}, TypeError, f"progress needs a finite number in 0 … 1; got {x!r}")
      for x in (1j, None, "0.5", [0.5])),
    ({"progress": np.ones(3)}, ValueError, "progress needs one number; got shape (3,)"),
    ({"config": {}}, TypeError, "config needs an MCLDConfig; got {}"),
    ({"config": None}, TypeError, "config needs an MCLDConfig; got None"),
    ({"config": MCLDConfig}, TypeError, "config needs an MCLDConfig; got the class MCLDConfig"),
    ({"teacher": None}, TypeError, "teacher_logits needs an array of numbers; got None"),
    ({"teacher": {}}, TypeError, "teacher_logits needs an array of numbers; got dict"),
    ({"labels": [0, None, 1, 0, 1]}, Exception, "labels"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "text"), OPTIONS, ids=[str(x[0]) for x in OPTIONS])
def test_what_a_loss_refuses(
    backend: Framework, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    rows = {"teacher": backend.array(CASE.teacher), "labels": backend.array(CASE.labels)} | options
    options = {name: x for name, x in options.items() if name in ("progress", "config")}
    with explained(error, "mcld_loss", text):
        mcld_loss(backend.array(CASE.student), rows["teacher"], rows["labels"], **options)


def test_other_refusals(backend: Framework) -> None:
    stored = TopKLogits.from_logits(CASE.teacher[None], 2)
    with explained(TypeError, "kd_loss", "teacher_logits needs an array of numbers; got TopKLog"):
        kd_loss(backend.array(CASE.student), stored)
    for name in ("dkd_loss", "nkd_loss", "rld_loss"):
        with explained(TypeError, name, "ignore_index needs an int; got 1.5"):
            call(backend, getattr(mcld_core, name), ignore_index=1.5)
    for loss, (name, bad) in [
        *((loss, ("temperature", x)) for loss in (kd_loss, dkd_loss) for x in (0, -1.0, INF)),
        (dkd_loss, ("alpha", -1.0)), (dkd_loss, ("beta", -1.0)),
    ]:  # fmt: skip
        with explained(ValueError, loss.__name__, f"{name} needs a finite number", f"got {bad!r}"):
            call(backend, loss, **{name: bad})
    with explained(ValueError, "kd_loss", "temperature needs one number; got"):
        call(backend, kd_loss, temperature=np.ones(3))
    bank = TeacherBank.from_logits(backend.array(CASE.teacher), backend.array(CASE.labels))
    with explained(TypeError, "TeacherBank.class_means", "config needs an MCLDConfig"):
        bank.class_means({})
    with explained(TypeError, "TeacherBank.push", "ignore_index needs an int"):
        bank.push(backend.array(CASE.teacher), backend.array(CASE.labels), ignore_index=None)


@pytest.mark.parametrize(
    ("field", "value", "fact"),
    [
        ("temperature", 0.0, "> 0"),
        ("temperature", NAN, "> 0"),
        ("key_temperature", 0, "> 0"),
        ("sample_temperature", -4.0, "> 0"),
        ("weight_instance", -1.0, "≥ 0"),
        ("weight_sample", INF, "finite"),
        ("weight_category", NAN, "≥ 0"),
        ("weight_ce", -1, "≥ 0"),
        ("weight_ce", "a", "a finite number ≥ 0"),
        ("weight_ce", np.ones(3), "one number; got shape"),
        ("beta", -8.0, "≥ 0"),
        ("category_warmup", -0.1, "≥ 0"),
        ("similarity", "euclid", "probability, pearson, cosine, dot"),
        ("category_contrast", "rows", "labels, prototypes, columns"),
        ("block_size", 0, "'auto', None or an int > 0"),
        ("block_size", True, "'auto', None or an int > 0"),
        ("target_mask", "no", "True or False"),
        ("soft_targets", 1, "True or False"),
        ("ignore_index", -1.5, "an int"),
    ],
)
def test_config_values_are_checked_at_construction(field: str, value: Any, fact: str) -> None:
    came = () if isinstance(value, np.ndarray) else (f"got {value!r}",)
    with explained((ValueError, TypeError), "MCLDConfig", field, fact, *came):
        MCLDConfig(**{field: value})


@pytest.mark.parametrize("value", [None, "0.25", [1.0]])
def test_config_values_that_are_no_numbers(value: Any) -> None:
    """None stands for the default τ, and for nothing else."""
    fields = [field.name for field in dataclasses.fields(MCLDConfig) if field.type == "Scalar"]
    assert len(fields) == 8
    for field in fields + ["temperature"] * (value is not None):
        with explained(TypeError, "MCLDConfig", field, "finite number", f"got {value!r}"):
            MCLDConfig(**{field: value})


@pytest.mark.parametrize(
    ("mapping", "error", "facts"),
    [
        ([0, 4], ValueError, ("0 … 3", "[0, 4]")),
        ([-1, 0], ValueError, ("0 … 3", "[-1, 0]")),
        ([2**33, 0], ValueError, ("0 … 3", "8589934592")),
        ([[0, 1]], ValueError, ("0 … 3", "[[0, 1]]")),
        ([], ValueError, ("0 … 3", "[]")),
        ([1, 0, 1], ValueError, ("each once", "[1, 0, 1]")),
        ([0.7, 1.2], TypeError, ("int classes", "[0.7, 1.2]")),
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
    with explained(ValueError, "select_classes", "logits", "(batch, classes)", "(2, 5, 4)"):
        select_classes(backend.array(np.zeros((2, 5, 4))), [0])
    with explained(TypeError, "select_classes", "logits", "float", "int64"):
        select_classes(backend.array(np.zeros((5, 4), int)), [0])
    mapping = backend.array(np.array([2, 0]))
    found = select_classes(backend.array(CASE.teacher), mapping)
    np.testing.assert_array_equal(backend.to_numpy(found), CASE.teacher[:, [2, 0]])


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
@pytest.mark.parametrize("place", ["teacher_logits", "labels", "where", "sample_weight", "keys"])
def test_devices_that_differ(backend: Framework, place: str) -> None:
    """The second device is torch's storage-less one, which every machine has."""
    values = {"labels": CASE.labels, "where": KEPT, "sample_weight": np.ones(5)}
    other = backend.array(values.get(place, CASE.teacher)).to("meta")
    arguments = {"teacher_logits": backend.array(CASE.teacher)}
    arguments[place] = TeacherKeys(other) if place == "keys" else other
    with explained(ValueError, "mcld_loss", place, "meta", "cpu", "move"):
        mcld_loss(backend.array(CASE.student), **arguments)


class TestCheckFinite:
    """The eager helper that names the first bad row."""

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("side", ["student_logits", "teacher_logits"])
    def test_a_bad_row(self, backend: Framework, side: str, bad: float) -> None:
        rows = {"student_logits": CASE.student.copy(), "teacher_logits": CASE.teacher.copy()}
        rows[side][[3, 4], 2] = bad
        if side == "teacher_logits" and bad < 0:
            rows[side][3] = bad  # one class alone may be ruled out
        with explained(ValueError, "check_finite", side, "row 3", str(bad)):
            check_finite(*(backend.array(x) for x in rows.values()))

    def test_absent_classes(self, backend: Framework) -> None:
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
        for targets in (at_label, np.eye(teacher.shape[1])[at_label]):
            with explained(ValueError, "check_finite", "teacher_logits", place):
                check_finite(student, given, backend.array(targets))
        masked = np.where(np.arange(4) == 3, -np.inf, CASE.student)  # labels are 0 … 2
        assert call(backend, check_finite, masked, masked) is None
        for rows, options in (((masked,), {}), ((masked, masked), {"similarity": "cosine"})):
            with explained(ValueError, "check_finite", "student_logits has -inf in row 0, class 3"):
                call(backend, check_finite, *rows, **options)

    def test_good_logits_pass_in_silence_and_probabilities_warn(self, backend: Framework) -> None:
        for dtype in backend.dtypes:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                student = backend.array(CASE.student, dtype)
                assert check_finite(student, backend.array(CASE.teacher, dtype)) is None
        probabilities = np.exp(CASE.teacher) / np.exp(CASE.teacher).sum(-1, keepdims=True)
        for rows, side in (((None, probabilities), "teacher"), ((probabilities,), "student")):
            with pytest.warns(UserWarning, match=rf"check_finite: .*{side}_logits.*probabilities"):
                call(backend, check_finite, *rows)

    def test_it_says_what_the_losses_say(self, backend: Framework) -> None:
        """The same text for the same fault, but for the name in front."""
        faults = [replaced for _, replaced, options, _ in LOGITS if not options]
        faults += [(None, None, x) for x in (np.zeros((5, 3)), np.zeros(3, int), np.ones(5))]
        for arguments in faults:
            texts = []
            for function in (mcld_loss, check_finite):
                with pytest.raises((ValueError, TypeError)) as caught:
                    call(backend, function, *arguments)
                texts.append(str(caught.value).removeprefix(f"{function.__name__}: "))
            assert texts[0] == texts[1]
        text = re.escape("check_finite: similarity needs one of probability, pearson, cosine, dot")
        with pytest.raises(ValueError, match=text):
            call(backend, check_finite, similarity="euclid")

"""`multimodal_mcld_loss` and `embedding_contrast` in every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, kd_loss, mcld_loss
from mcld_core.extensions.multimodal import feature_mse, multimodal_mcld_loss
from tests import oracles
from tests.cases import logits
from tests.differences import differences
from tests.frameworks import Framework
from tests.oracles import Case
from tests.oracles.rows import softmax
from tests.tolerance import assert_central, assert_gradient, assert_value

BATCH, CLASSES, PARTS, SCALE = 6, 4, 3, 16.0
RNG = np.random.default_rng(17)
STUDENT = {name: logits(RNG, BATCH, CLASSES) for name in ("image", "sound")}
TEACHER = {name: logits(RNG, BATCH, CLASSES) for name in ("image", "text", "fused")}
LABELS = np.array([0, 1, 2, 0, 1, -100])
WEIGHT = np.arange(1, BATCH + 1) / 4
HAS_SOUND, HAS_TEXT = np.arange(BATCH) != 1, np.array([1, 1, 0, 1, 1, 1], bool)
PAIRS = {("image", "image"): 1.0, ("image", "text"): 0.5, ("sound", "text"): 2.0}
PRESENT = {
    ("image", "image"): np.ones(BATCH, bool),
    ("image", "text"): HAS_TEXT,
    ("sound", "text"): HAS_SOUND & HAS_TEXT,
}


def arrays(backend: Framework, side: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: backend.array(x, "float64") for name, x in side.items()}


def call(backend: Framework, student: dict[str, Any], **options: Any) -> Any:
    """Return the loss with sound and text missing in some rows, whose content is NaN."""
    teacher = {name: x.copy() for name, x in TEACHER.items()}
    teacher["text"][~HAS_TEXT] = np.nan
    options = {
        "pairs": PAIRS,
        "student_where": {"sound": backend.array(HAS_SOUND)},
        "teacher_where": {"text": backend.array(HAS_TEXT)},
        "sample_weight": backend.array(WEIGHT, "float64"),
        "progress": 0.5,
    } | options
    return multimodal_mcld_loss(student, arrays(backend, teacher), backend.array(LABELS), **options)


def pair_rows(a: str, b: str, student: dict[str, np.ndarray] = STUDENT) -> np.ndarray:
    """Rows of one pair by the oracle of the core, 0 where one side is missing."""
    case = Case(student[a], TEACHER[b], LABELS, where=PRESENT[a, b], progress=0.5)
    return oracles.mcld_loss(case, "none")


def expected(student: dict[str, np.ndarray] = STUDENT) -> np.ndarray:
    """Each sample's mean over the pairs that it has, times its weight."""
    rows = {pair: pair_rows(*pair, student) for pair in PAIRS}
    out = np.zeros(BATCH)
    for i in range(BATCH):
        if LABELS[i] == -100:
            continue
        has = [pair for pair in PAIRS if PRESENT[pair][i]]
        out[i] = sum(PAIRS[p] * rows[p][i] for p in has) / sum(PAIRS[p] for p in has)
    return out * WEIGHT


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_loss_and_terms_equal_their_definition(backend: Framework, reduction: str) -> None:
    loss, terms = call(backend, arrays(backend, STUDENT), reduction=reduction, return_terms=True)
    rows, kept = expected(), np.where(LABELS >= 0, WEIGHT, 0.0)
    reference = {"none": rows, "sum": rows.sum(), "mean": rows.sum() / kept.sum()}[reduction]
    assert_value(backend.to_numpy(loss), reference, scale=SCALE)
    assert set(terms) == set(PAIRS)
    for pair, term in terms.items():
        rows, weight = pair_rows(*pair) * WEIGHT, np.where(PRESENT[pair], kept, 0.0)
        reference = {"none": rows, "sum": rows.sum(), "mean": rows.sum() / weight.sum()}[reduction]
        assert_value(backend.to_numpy(term), reference, scale=SCALE)


@pytest.mark.parametrize("name", ["image", "sound"])
def test_gradient_equals_central_differences(differentiable: Framework, name: str) -> None:
    backend, kept = differentiable, np.where(LABELS >= 0, WEIGHT, 0.0)

    def loss(x: Any) -> Any:
        return call(backend, arrays(backend, STUDENT) | {name: x})

    _, gradient = backend.value_and_grad(loss, STUDENT[name])
    reference = differences(
        lambda x: float(expected(STUDENT | {name: x}).sum() / kept.sum()), STUDENT[name]
    )
    assert_central(gradient, reference, SCALE)
    if name == "sound":
        assert not gradient[~HAS_SOUND].any()


def test_one_pair_is_the_plain_loss_and_all_pairs_are_the_default(backend: Framework) -> None:
    labels = backend.array(np.abs(LABELS) % 3)
    student, teacher = arrays(backend, STUDENT), arrays(backend, TEACHER)
    given: dict[str, Any] = {"config": MCLDConfig(ignore_index=0)}
    pairs = {("image", "text"): 3.0, ("image", "fused"): 0.0}
    has = {"text": backend.array(HAS_TEXT)}
    one, of_pairs = multimodal_mcld_loss(
        student, teacher, labels, pairs=pairs, teacher_where=has, return_terms=True, **given
    )
    plain = mcld_loss(student["image"], teacher["text"], labels, where=has["text"], **given)
    assert_value(backend.to_numpy(one), backend.to_numpy(plain), scale=SCALE)
    plain = mcld_loss(student["image"], teacher["fused"], labels, **given)
    assert_value(backend.to_numpy(of_pairs["image", "fused"]), backend.to_numpy(plain), scale=SCALE)
    every, terms = multimodal_mcld_loss(student, teacher, labels, return_terms=True)
    assert set(terms) == {(a, b) for a in STUDENT for b in TEACHER}
    mean = np.mean([backend.to_numpy(term) for term in terms.values()])
    assert_value(backend.to_numpy(every), mean, scale=SCALE)


@pytest.mark.parametrize("filling", [np.nan, np.inf])
@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("by_label", [False, True])
def test_what_a_dropped_row_holds_does_not_matter(
    differentiable: Framework, by_label: bool, parts: bool, filling: float
) -> None:
    """Its content, its teacher's and its weight; other losses that are NaN at 0 included."""
    backend, shape = differentiable, (BATCH, PARTS, CLASSES) if parts else (BATCH, CLASSES)
    rng, dropped = np.random.default_rng(9), np.arange(BATCH) == 2
    student, teacher = (logits(rng, *shape) + 1 / 32 for _ in range(2))  # nowhere 0
    labels = np.where(dropped & by_label, -100, np.abs(LABELS) % 3)
    gap = dropped.reshape(-1, *(1 for _ in shape[1:]))

    def ratio(s: Any, t: Any) -> Any:
        rows = s / t
        for _ in shape[1:]:
            rows = sum(rows[..., i] for i in range(rows.shape[-1]))
        return rows

    def run(filling: float | None) -> tuple[np.ndarray, np.ndarray]:
        other = filling is not None
        weight = np.where(dropped, filling, WEIGHT) if other else WEIGHT
        rows = {"text": np.where(gap, filling, teacher) if other else teacher}
        others: dict[Any, Any] = {("image", "text"): (0.5, ratio)}
        if not parts:
            others["sound", "text"] = 0.5, feature_mse
        where = None if by_label else {"text": backend.array(~dropped)}

        def loss(x: Any) -> Any:
            return multimodal_mcld_loss(
                {"image": x, "sound": x},
                arrays(backend, rows),
                backend.array(labels),
                other_losses=others,
                teacher_where=where,
                sample_weight=backend.array(weight, "float64"),
            )

        return backend.value_and_grad(
            loss, np.where(gap, filling, student) if other and by_label else student
        )

    (value, gradient), (found, other_gradient) = run(None), run(filling)
    assert np.isfinite(value)
    assert_value(found, value, scale=SCALE)
    assert_gradient(other_gradient, gradient, scale=SCALE)
    assert not other_gradient[dropped].any()


@pytest.mark.parametrize("kind", ["logits", "embeddings"])
@pytest.mark.parametrize("parts", [False, True])
def test_dtypes_may_differ_between_modalities(backend: Framework, kind: str, parts: bool) -> None:
    """The loss is float64 if a modality of the student is, else float32."""
    shape = (BATCH, PARTS, CLASSES) if parts else (BATCH, CLASSES)
    rng = np.random.default_rng(10)
    student = {name: logits(rng, *shape) for name in STUDENT}
    teacher = {name: logits(rng, *shape) for name in TEACHER}
    labels = backend.array(np.abs(LABELS) % 3)
    others = {} if parts else {("sound", "fused"): (0.5, feature_mse)}
    names = ("image", "sound", "text", "fused")
    for dtypes in (
        ("float64", "float32", "float16", "float64"),
        ("float32", "float64", "float64", "float32"),
        ("float16", "float16", "float16", "float16"),
    ):
        of = dict(zip(names, dtypes, strict=True))
        loss, terms = multimodal_mcld_loss(
            {name: backend.array(x, of[name]) for name, x in student.items()},
            {name: backend.array(x, of.get(name, "float32")) for name, x in teacher.items()},
            labels,
            kind=kind,
            other_losses=others,
            return_terms=True,
        )
        reference = multimodal_mcld_loss(
            student, teacher, np.abs(LABELS) % 3, kind=kind, other_losses=others
        )
        assert {backend.dtype(x) for x in (loss, *terms.values())} == {
            "float64" if "float64" in dtypes[:2] else "float32"
        }
        assert_value(backend.to_numpy(loss), reference, "float32", scale=64.0)


def test_other_losses_are_added_where_both_modalities_are(backend: Framework) -> None:
    student = arrays(backend, STUDENT)
    others = {
        ("image", "image"): (0.5, feature_mse),
        ("sound", "text"): (2.0, lambda s, t: kd_loss(s, t, reduction="none")),
    }
    found = call(backend, student, other_losses=others, reduction="none")
    rows = expected()
    mse = ((STUDENT["image"] - TEACHER["image"]) ** 2).mean(1)
    kd = oracles.kd_loss(
        Case(STUDENT["sound"], TEACHER["text"], where=PRESENT["sound", "text"]), "none"
    )
    rows += np.where(LABELS >= 0, WEIGHT * (0.5 * mse + 2.0 * kd), 0.0)
    assert_value(backend.to_numpy(found), rows, scale=64.0)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_feature_mse_of_half_precision_rows_is_computed_in_float32(
    backend: Framework, dtype: str
) -> None:
    student, teacher = np.zeros((2, 1000)), np.full((2, 1000), 10.0)
    rows = backend.array(student, dtype), backend.array(teacher, dtype)
    found = feature_mse(*rows)
    assert backend.dtype(found) == "float32"
    assert_value(backend.to_numpy(found), np.full(2, 100.0), "float32")
    total = multimodal_mcld_loss(
        {"image": rows[0]},
        {"image": rows[1]},
        backend.array(np.array([0, 1])),
        pairs={},
        other_losses={("image", "image"): (0.5, feature_mse)},
    )
    assert_value(backend.to_numpy(total), 50.0, "float32")


@pytest.mark.parametrize(("weight", "similarity"), [(0.0, "probability"), (0.5, "pearson"),
                                                    (0.5, "dot"), (0.0, "cosine")])  # fmt: skip
def test_parts_are_contrasted_as_means_and_one_by_one(
    backend: Framework, weight: float, similarity: str
) -> None:
    rng = np.random.default_rng(5)
    student, teacher = logits(rng, BATCH, PARTS, CLASSES), logits(rng, BATCH, PARTS, CLASSES)
    labels, has = np.array([0, 1, 2, 0, 1, 0]), np.arange(BATCH) != 4
    found = multimodal_mcld_loss(
        {"image": backend.array(student, "float64")},
        {"image": backend.array(teacher, "float64")},
        backend.array(labels),
        student_where={"image": backend.array(has)},
        weight_local=weight,
        reduction="none",
        config=MCLDConfig(similarity=similarity),
    )
    mean_teacher = teacher.mean(1)
    if similarity == "probability":
        mean_teacher = np.log(np.mean([[softmax(part) for part in each] for each in teacher], 1))
    whole = Case(student.mean(1), mean_teacher, labels, where=has)
    reference = oracles.mcld_loss(whole, "none", similarity=similarity)
    local = Case(
        student.reshape(-1, CLASSES),
        teacher.reshape(-1, CLASSES),
        labels.repeat(PARTS),
        where=has.repeat(PARTS),
    )
    parts = oracles.mcld_loss(local, "none", similarity=similarity).reshape(BATCH, PARTS)
    reference = reference + weight * parts.mean(1)
    assert_value(backend.to_numpy(found), reference, scale=SCALE)

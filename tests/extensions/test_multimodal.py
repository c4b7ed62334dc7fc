"""`multimodal_mcld_loss` and `embedding_contrast` in every backend."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, kd_loss, mcld_loss
from mcld_core.extensions.multimodal import embedding_contrast, feature_mse, multimodal_mcld_loss
from tests import oracles
from tests.cases import logits
from tests.frameworks import Framework
from tests.oracles import Case
from tests.oracles.rows import log_sum_exp, softmax
from tests.test_gradients import differences
from tests.tolerance import assert_central, assert_value, assert_zero

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
    one = multimodal_mcld_loss(student, teacher, labels, pairs={("image", "text"): 3.0})
    plain = mcld_loss(student["image"], teacher["text"], labels)
    assert_value(backend.to_numpy(one), backend.to_numpy(plain), scale=SCALE)
    every, terms = multimodal_mcld_loss(student, teacher, labels, return_terms=True)
    assert set(terms) == {(a, b) for a in STUDENT for b in TEACHER}
    mean = np.mean([backend.to_numpy(term) for term in terms.values()])
    assert_value(backend.to_numpy(every), mean, scale=SCALE)


def test_a_missing_modality_changes_nothing_for_pairs_without_it(backend: Framework) -> None:
    student, labels = arrays(backend, STUDENT), backend.array(np.abs(LABELS) % 3)

    def terms(has_text: np.ndarray) -> dict[Any, Any]:
        _, found = multimodal_mcld_loss(
            student,
            arrays(backend, TEACHER),
            labels,
            teacher_where={"text": backend.array(has_text)},
            reduction="none",
            return_terms=True,
        )
        return {pair: backend.to_numpy(term) for pair, term in found.items()}

    full, part = terms(np.ones(BATCH, bool)), terms(HAS_TEXT)
    for pair in full:
        if pair[1] != "text":
            assert (full[pair] == part[pair]).all()
        else:
            assert (part[pair][~HAS_TEXT] == 0).all()
            assert (full[pair] != part[pair]).any()  # a key less


def test_order_and_names_of_modalities_play_no_part(backend: Framework) -> None:
    turned = {"text": "image", "image": "fused", "fused": "text"}
    labels = backend.array(np.abs(LABELS) % 3)
    student = arrays(backend, STUDENT)
    loss, terms = multimodal_mcld_loss(student, arrays(backend, TEACHER), labels, return_terms=True)
    renamed = {turned[name]: TEACHER[name] for name in reversed(TEACHER)}
    other, other_terms = multimodal_mcld_loss(
        student, arrays(backend, renamed), labels, return_terms=True
    )
    assert_value(backend.to_numpy(other), backend.to_numpy(loss), scale=SCALE)
    for (a, b), term in terms.items():
        assert (backend.to_numpy(other_terms[a, turned[b]]) == backend.to_numpy(term)).all()


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
        config=MCLDConfig(weight_instance=0.0, weight_sample=0.0, weight_category=0.0),
        other_losses={("image", "image"): (0.5, feature_mse)},
    )
    assert_value(backend.to_numpy(total), 50.0, "float32")


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_parts_are_contrasted_as_means_and_one_by_one(backend: Framework, weight: float) -> None:
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
    )
    means = [[softmax(part) for part in sample] for sample in teacher]
    mean_teacher = np.log(np.mean(means, 1))
    whole = Case(student.mean(1), mean_teacher, labels, where=has)
    reference = oracles.mcld_loss(whole, "none")
    local = Case(
        student.reshape(-1, CLASSES),
        teacher.reshape(-1, CLASSES),
        labels.repeat(PARTS),
        where=has.repeat(PARTS),
    )
    reference = reference + weight * oracles.mcld_loss(local, "none").reshape(BATCH, PARTS).mean(1)
    assert_value(backend.to_numpy(found), reference, scale=SCALE)


# ---- embeddings ----

WIDTH = 5
VECTORS = RNG.normal(size=(BATCH, WIDTH)), RNG.normal(size=(BATCH, WIDTH))
IDS = np.array([700, 3, 3, 700, 9, -1])
KEEP = np.arange(BATCH) != 3


def embedding_rows(
    student: np.ndarray, scale: float, ids: Any = IDS, ramp: float = 1.0
) -> np.ndarray:
    """The definition in loops: cosine times scale; ids None: no mask, no category-wise term."""
    teacher, out = VECTORS[1], []
    kept = [bool(KEEP[i]) and (ids is None or ids[i] >= 0) for i in range(BATCH)]
    for i in range(BATCH):
        if not kept[i]:
            out.append(0.0)
            continue
        s = {}
        for j in range(BATCH):
            if kept[j]:
                norm = math.hypot(*student[i]) * math.hypot(*teacher[j])
                s[j] = scale * math.fsum(student[i] * teacher[j]) / norm
        same = [j for j in s if ids is not None and ids[j] == ids[i]]
        loss = log_sum_exp([s[j] for j in s if j == i or j not in same]) - s[i]
        if ids is not None:
            loss += ramp * (log_sum_exp(list(s.values())) - sum(s[j] for j in same) / len(same))
        out.append(loss)
    return np.array(out)


@pytest.mark.parametrize("ids", [IDS, None], ids=["ids", "none"])
def test_embeddings_equal_their_definition(differentiable: Framework, ids: Any) -> None:
    backend = differentiable

    def loss(x: Any, reduction: str = "sum") -> Any:
        return embedding_contrast(
            x,
            backend.array(VECTORS[1], "float64"),
            backend.array(ids),
            temperature=0.2,
            progress=0.5,
            where=backend.array(KEEP),
            reduction=reduction,
        )

    rows = backend.to_numpy(loss(backend.array(VECTORS[0], "float64"), "none"))
    assert_value(rows, embedding_rows(VECTORS[0], 5.0, ids, 0.5), scale=5.0)
    _, gradient = backend.value_and_grad(loss, VECTORS[0])
    reference = differences(lambda x: float(embedding_rows(x, 5.0, ids, 0.5).sum()), VECTORS[0])
    assert_central(gradient, reference, 5.0)


def test_the_logit_scale_has_its_gradient(differentiable: Framework) -> None:
    backend = differentiable

    def loss(scale: Any) -> Any:
        return multimodal_mcld_loss(
            {"image": backend.array(VECTORS[0], "float64")},
            {"text": backend.array(VECTORS[1], "float64")},
            backend.array(IDS),
            kind="embeddings",
            logit_scale=scale,
            student_where={"image": backend.array(KEEP)},
            reduction="sum",
        )

    value, gradient = backend.value_and_grad(loss, np.asarray(5.0))
    assert_value(value, embedding_rows(VECTORS[0], 5.0).sum(), scale=5.0)
    step = 1e-3
    moved = [embedding_rows(VECTORS[0], 5.0 + k * step).sum() for k in (-2, -1, 1, 2)]
    slope = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * step)
    assert_central(gradient, np.asarray(slope))


def test_soft_labels_of_any_width_and_rows_that_all_lack_a_modality(backend: Framework) -> None:
    student, teacher = (backend.array(x, "float64") for x in VECTORS)
    names, ids = np.unique(IDS, return_inverse=True)
    soft = backend.array(np.eye(len(names))[ids], "float64")
    hard = embedding_contrast(student, teacher, backend.array(ids))
    assert_value(
        backend.to_numpy(embedding_contrast(student, teacher, soft)),
        backend.to_numpy(hard),
        scale=16.0,
    )
    nothing = embedding_contrast(student, teacher, where=backend.array(np.zeros(BATCH, bool)))
    assert_zero(backend.to_numpy(nothing))


def test_it_compiles(differentiable: Framework) -> None:
    backend, labels = differentiable, differentiable.array(np.abs(LABELS) % 3)
    text = backend.array(TEACHER["text"], "float64")

    def loss(image: Any, sound: Any, has: Any) -> Any:
        return multimodal_mcld_loss(
            {"image": image, "sound": sound},
            {"text": text},
            labels,
            student_where={"sound": has},
        )

    arguments = (*arrays(backend, STUDENT).values(), backend.array(HAS_SOUND))
    compiled = backend.jit(loss)(*arguments)
    assert_value(backend.to_numpy(compiled), backend.to_numpy(loss(*arguments)), scale=SCALE)


def test_errors_say_what_came_and_what_to_do(backend: Framework) -> None:
    student, teacher = arrays(backend, STUDENT), arrays(backend, TEACHER)
    short, narrow = student["image"][:3], {"text": teacher["text"][:, :3]}
    image = {"image": student["image"]}
    for function, text in [
        (lambda: multimodal_mcld_loss(student, teacher, pairs={}), "at least one pair"),
        (
            lambda: multimodal_mcld_loss(student, teacher, pairs={("smell", "text"): 1.0}),
            "student has no modality 'smell'; it has ['image', 'sound']",
        ),
        (
            lambda: multimodal_mcld_loss(image, teacher, teacher_where={"taste": None}),
            "teacher has no modality 'taste'",
        ),
        (lambda: multimodal_mcld_loss(image, narrow), "need the same width (and parts)"),
        (lambda: multimodal_mcld_loss(student | {"sound": short}, teacher), "the same batch"),
        (lambda: multimodal_mcld_loss(image, teacher, kind="rows"), "'embeddings'; got 'rows'"),
        (lambda: multimodal_mcld_loss(image, teacher, logit_scale=2.0), "is for kind='embeddings'"),
        (lambda: multimodal_mcld_loss({"image": student["image"][0]}, teacher), "needs shape"),
        (lambda: embedding_contrast(student["image"], narrow["text"]), "Project one of them"),
        (lambda: embedding_contrast(short, teacher["text"]), "need the same batch"),
        (
            lambda: embedding_contrast(student["image"], teacher["text"], temperature=0.0),
            "temperature needs a number > 0; got 0.0",
        ),
        (lambda: feature_mse(student["image"], narrow["text"]), "one width; got (6, 4) and (6, 3)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(text)):
            function()


def test_the_weights_of_the_settings_reach_every_pair(backend: Framework) -> None:
    config = MCLDConfig(weight_instance=0.0, weight_category=0.0, weight_sample=2.0)
    student, teacher = arrays(backend, STUDENT), arrays(backend, TEACHER)
    labels = np.abs(LABELS) % 3
    found = multimodal_mcld_loss(
        student, teacher, backend.array(labels), config=config, pairs={("image", "text"): 1.0}
    )
    case = Case(STUDENT["image"], TEACHER["text"], labels)
    assert_value(backend.to_numpy(found), 2.0 * oracles.sample_wise(case), scale=SCALE)

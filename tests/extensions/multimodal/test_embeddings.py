"""`embedding_contrast` in every backend."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig
from mcld_core.extensions.multimodal import embedding_contrast, multimodal_mcld_loss
from tests.differences import differences, slope
from tests.frameworks import Framework
from tests.oracles.rows import log_sum_exp
from tests.tolerance import assert_central, assert_value, assert_zero

BATCH, WIDTH = 5, 3
RNG = np.random.default_rng(4)
STUDENT, TEACHER = RNG.normal(size=(2, BATCH, WIDTH))
LABELS = np.array([0, 1, 0, 2, 1])
WEIGHT = np.array([0.5, 0.0, 2.0, 1.0, 0.25])


IDS = np.array([700, 3, 3, 700, -1])
KEEP = np.arange(BATCH) != 3


def embedding_rows(
    student: np.ndarray, scale: float, ids: Any = IDS, ramp: float = 1.0
) -> np.ndarray:
    """The definition in loops: cosine times scale; ids None: no mask, no category-wise term."""
    teacher, out = TEACHER, []
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
            backend.array(TEACHER, "float64"),
            backend.array(ids),
            config=MCLDConfig(category_contrast="columns"),  # of classes: plays no part
            temperature=0.2,
            progress=0.5,
            where=backend.array(KEEP),
            reduction=reduction,
        )

    rows = backend.to_numpy(loss(backend.array(STUDENT, "float64"), "none"))
    assert_value(rows, embedding_rows(STUDENT, 5.0, ids, 0.5), scale=5.0)
    _, gradient = backend.value_and_grad(loss, STUDENT)
    reference = differences(lambda x: float(embedding_rows(x, 5.0, ids, 0.5).sum()), STUDENT)
    assert_central(gradient, reference, 5.0)


def test_the_logit_scale_has_its_gradient(differentiable: Framework) -> None:
    backend = differentiable

    def loss(scale: Any) -> Any:
        return multimodal_mcld_loss(
            {"image": backend.array(STUDENT, "float64")},
            {"text": backend.array(TEACHER, "float64")},
            backend.array(IDS),
            kind="embeddings",
            logit_scale=scale,
            student_where={"image": backend.array(KEEP)},
            reduction="sum",
        )

    value, gradient = backend.value_and_grad(loss, np.asarray(5.0))
    assert_value(value, embedding_rows(STUDENT, 5.0).sum(), scale=5.0)
    assert_central(gradient, slope(lambda scale: embedding_rows(STUDENT, scale).sum(), 5.0))


def test_soft_labels_of_any_width_and_rows_that_all_lack_a_modality(backend: Framework) -> None:
    student, teacher = (backend.array(x, "float64") for x in (STUDENT, TEACHER))
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


def loss(backend: Framework, labels: Any = None, **options: Any) -> np.ndarray:
    student, teacher = (backend.array(x, "float64") for x in (STUDENT, TEACHER))
    found = embedding_contrast(student, teacher, backend.array(labels, "float64"), **options)
    return backend.to_numpy(found)


def test_a_weight_scales_its_row_and_the_mean(backend: Framework) -> None:
    rows = loss(backend, LABELS, reduction="none")
    weights = {"sample_weight": backend.array(WEIGHT, "float64")}
    assert_value(loss(backend, LABELS, reduction="none", **weights), rows * WEIGHT, scale=15.0)
    mean = (rows * WEIGHT).sum() / WEIGHT.sum()
    assert_value(loss(backend, LABELS, **weights), mean, scale=15.0)


def test_a_dropped_row_may_have_any_weight(backend: Framework) -> None:
    where = np.array([True, False, True, True, True])
    for value in (np.nan, np.inf, -1.0):
        odd = np.where(where, WEIGHT, value)
        found, reference = (
            loss(
                backend,
                LABELS,
                where=backend.array(where),
                sample_weight=backend.array(weight, "float64"),
            )
            for weight in (odd, WEIGHT)
        )
        assert_value(found, reference, scale=15.0)

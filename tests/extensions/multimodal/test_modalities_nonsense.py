"""What embeddings and several modalities refuse, and what becomes of those with nothing in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig
from mcld_core.extensions.multimodal import embedding_contrast, feature_mse, multimodal_mcld_loss
from tests.frameworks import Framework
from tests.tolerance import assert_gradient, assert_value, assert_zero

BATCH, WIDTH = 4, 3
RNG = np.random.default_rng(8)
STUDENT, TEACHER = RNG.normal(size=(2, BATCH, WIDTH))
LABELS = np.array([0, 1, 2, 0])
PAIR = ("image", "image")


class Given:
    """The arrays of one backend."""

    def __init__(self, backend: Framework) -> None:
        self.s, self.t = (backend.array(x, "float64") for x in (STUDENT, TEACHER))
        self.array = lambda x: backend.array(np.asarray(x), "float64")

    def contrast(self, labels: Any = LABELS, **options: Any) -> Any:
        return embedding_contrast(self.s, self.t, labels, **options)

    def modal(self, **options: Any) -> Any:
        options = {"student": {"image": self.s}, "teacher": {"image": self.t}} | options
        return multimodal_mcld_loss(options.pop("student"), options.pop("teacher"), **options)


def soft(**changes: float) -> np.ndarray:
    rows = np.eye(3)[LABELS]
    rows[1] = [changes.get("first", 0.0), changes.get("second", 1.0), 0.0]
    return rows


CASES: list[tuple[Callable[[Given], Any], str]] = [
    (lambda g: feature_mse(g.s[:1], g.t),
     "feature_mse: student_rows and teacher_rows need the same batch size; got (1, 3)"),
    (lambda g: feature_mse(g.s, g.t[:, :2]), "the same width; got (4, 3) and (4, 2). Bring both"),
    (lambda g: feature_mse(g.s, g.t[0]), "_rows needs two"),
    (lambda g: feature_mse(g.s[:, :0], g.t[:, :0]), "at least one class"),
    (lambda g: feature_mse(g.s, None), "feature_mse: teacher_rows needs an array"),
    (lambda g: feature_mse(g.array(np.eye(3, dtype=int)), g.t[:3]), "student_rows needs a float d"),
    (lambda g: embedding_contrast(None, g.t), "student needs an array of numbers; got None"),
    (lambda g: embedding_contrast(g.s[:, :0], g.t[:, :0]), "at least one class"),
    (lambda g: embedding_contrast(g.s[:2], g.t), "the same batch size"),
    (lambda g: embedding_contrast(g.s, g.t[:, :2]), "student and teacher need the same width"),
    (lambda g: g.contrast(g.array(soft(first=0.5))), "labels needs soft labels that are ≥ 0 and s"),
    (lambda g: g.contrast(g.array(soft(first=-0.5, second=1.5))), "sum to 1 in each row; got"),
    (lambda g: g.contrast(g.array(soft(first=np.nan))), "in row 1"),
    (lambda g: g.contrast(g.array(np.eye(3))), "shape (4,) for int labels or (4, any) for soft"),
    (lambda g: g.contrast(g.array(LABELS / 1.0)), "labels needs an integer dtype; got float"),
    (lambda g: g.contrast(config={}), "embedding_contrast: config needs an MCLDConfig"),
    (lambda g: g.contrast(where=g.array(np.ones(4))), "where needs dtype bool (True = keep)"),
    (lambda g: g.contrast(sample_weight=g.array([1, np.nan, 1, 1.0])), "got nan in row 1"),
    (lambda g: g.contrast(sample_weight=g.array(np.arange(4) - 1.0)), "≥ 0; got -1.0"),
    (lambda g: g.contrast(sample_weight=g.array(np.ones(3))), "sample_weight"),
    (lambda g: g.modal(pairs={}), "at least one pair"),
    (lambda g: g.modal(pairs={("smell", "image"): 1.0}), "no modality 'smell'; it has 'image'"),
    (lambda g: g.modal(teacher_where={"taste": None}), "teacher has no modality 'taste'"),
    (lambda g: g.modal(pairs={"image": 1.0}), "(a, b) → (weight, function); got 'image'"),
    (lambda g: g.modal(other_losses={PAIR: feature_mse}), "function); got <function feature_mse"),
    (lambda g: g.modal(pairs={PAIR: np.inf}),
     "the weight of ('image', 'image') needs a finite number ≥ 0; got inf"),
    (lambda g: g.modal(pairs={PAIR: "1"}), "the weight of ('image', 'image') needs a finite"),
    (lambda g: g.modal(pairs={PAIR: g.array([1.0, 2.0])}), "needs one number"),
    (lambda g: g.modal(pairs={PAIR: g.array(-1.0)}), "needs a finite number ≥ 0; got -1.0"),
    (lambda g: g.modal(other_losses={PAIR: (-0.5, feature_mse)}), "finite number ≥ 0; got -0.5"),
    (lambda g: g.modal(other_losses={PAIR: (1.0, lambda s, t: 0.0)}),
     "the result of other_losses[('image', 'image')] needs shape (4,)"),
    (lambda g: g.modal(other_losses={PAIR: (1.0, lambda s, t: None)}),
     "the result of other_losses[('image', 'image')] needs an array of numbers; got None"),
    (lambda g: g.modal(student={"image": None}), "student['image'] needs an array"),
    (lambda g: g.modal(student={"image": g.s[0]}), "needs shape (batch, width) or (batch, parts"),
    (lambda g: g.modal(student={"image": g.s[:2]}), "the same batch"),
    (lambda g: g.modal(student={"image": g.s[:, :2]}), "need the same batch"),
    (lambda g: g.modal(student_where={"image": g.array(np.ones(4))}), "where of student['image']"),
    (lambda g: g.modal(weight_local=None), "weight_local needs a finite number ≥ 0"),
    (lambda g: g.modal(weight_local=-1.0), "weight_local needs a finite number ≥ 0; got -1.0"),
    (lambda g: g.modal(kind="rows"), "embeddings; got 'rows'"),
    (lambda g: g.modal(logit_scale=2.0), "is for kind='embeddings'"),
    (lambda g: g.modal(kind="embeddings", class_prior=np.ones(3)), "is for kind='logits'; got it"),
    (lambda g: g.modal(config=None), "multimodal_mcld_loss: config needs an MCLDConfig"),
    (lambda g: g.modal(labels=g.array(LABELS + 7)), "labels needs labels in 0 … 2"),
    (lambda g: g.modal(labels=g.array(soft(first=0.5)), kind="embeddings"), "labels needs soft"),
    (lambda g: g.modal(progress=3.0), "progress needs a finite number in 0 … 1; got 3.0"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "text"), CASES, ids=[text for _, text in CASES])
def test_nonsense_is_refused(backend: Framework, call: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        call(Given(backend))


SCALES: dict[str, Callable[[Given, Any], Any]] = {
    "embedding_contrast: logit_scale": lambda g, x: g.contrast(logit_scale=x),
    "embedding_contrast: temperature": lambda g, x: g.contrast(temperature=x),
    "multimodal_mcld_loss: logit_scale": lambda g, x: g.modal(kind="embeddings", logit_scale=x),
}


@pytest.mark.parametrize("name", SCALES)
def test_the_scale_is_one_number_above_zero(backend: Framework, name: str) -> None:
    given, call = Given(backend), SCALES[name]
    for bad in (0.0, -2.0, np.nan, np.inf):
        for scale in (bad, given.array(bad)):
            with pytest.raises(ValueError, match="needs a finite number > 0; got"):
                call(given, scale)
    with pytest.raises(ValueError, match="needs one number; got shape"):
        call(given, given.array([1.0, 2.0]))
    with pytest.raises(TypeError, match="needs a finite number > 0; got '1'"):
        call(given, "1")


def test_soft_labels_of_a_dropped_row_may_be_anything(backend: Framework) -> None:
    given, where = Given(backend), np.arange(BATCH) != 1
    found, expected = (
        backend.to_numpy(given.contrast(given.array(labels), where=backend.array(where)))
        for labels in (soft(first=7.0), soft())
    )
    assert_value(found, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("labels", [None, LABELS[:0], np.eye(3)[LABELS[:0]]])
def test_no_embeddings_give_zero_with_a_zero_gradient(
    differentiable: Framework, labels: Any, reduction: str
) -> None:
    backend = differentiable
    teacher = backend.array(np.zeros((0, 4)), "float64")

    def loss(x: Any) -> Any:
        found = embedding_contrast(x, teacher, backend.array(labels), reduction=reduction)
        return found if reduction != "none" else embedding_contrast(x, teacher, reduction="sum")

    value, gradient = backend.value_and_grad(loss, np.zeros((0, 4)))
    assert value == 0
    assert gradient.shape == (0, 4)
    rows = embedding_contrast(teacher, teacher, backend.array(labels), reduction="none")
    assert tuple(rows.shape) == (0,)


@pytest.mark.parametrize("kind", ["logits", "embeddings"])
@pytest.mark.parametrize("labels", [None, LABELS])
def test_no_parts_give_zero_with_a_zero_gradient(
    differentiable: Framework, kind: str, labels: Any
) -> None:
    """A modality without any part is missing in every row, whatever else there is."""
    backend, empty = differentiable, np.zeros((BATCH, 0, WIDTH))
    given = backend.array(empty, "float64")
    labels = backend.array(labels)

    def loss(x: Any, text: Any = None) -> Any:
        student, pairs = {"image": x}, {PAIR: 1.0}
        if text is not None:
            student["text"], pairs["text", "text"] = text, 1.0
        teacher = {"image": given, "text": backend.array(TEACHER, "float64")}
        return multimodal_mcld_loss(
            student, teacher, labels, pairs=pairs, kind=kind, return_terms=True
        )

    value, gradient = backend.value_and_grad(lambda x: loss(x)[0], empty)
    assert value == 0
    assert gradient.shape == empty.shape
    assert_zero(backend.to_numpy(loss(given)[1][PAIR]))
    value, gradient = backend.value_and_grad(lambda x: loss(given, x)[0], STUDENT)
    alone = backend.value_and_grad(
        lambda x: multimodal_mcld_loss(
            {"text": x}, {"text": backend.array(TEACHER, "float64")}, labels, kind=kind
        ),
        STUDENT,
    )
    assert_value(value, alone[0], scale=16.0)
    assert_gradient(gradient, alone[1], scale=16.0)


def test_no_samples_give_zero(backend: Framework) -> None:
    for shape in ((0, WIDTH), (0, 2, WIDTH)):
        rows = backend.array(np.zeros(shape), "float64")
        for kind in ("logits", "embeddings"):
            found = multimodal_mcld_loss(
                {"image": rows}, {"image": rows}, backend.array(LABELS[:0]), kind=kind
            )
            assert backend.to_numpy(found) == 0
    features = backend.array(np.zeros((0, WIDTH)), "float64")
    assert tuple(feature_mse(features, features).shape) == (0,)


def test_a_weight_of_zero_skips_its_term_of_embeddings(backend: Framework) -> None:
    given = Given(backend)
    labels = backend.array(LABELS)
    one = MCLDConfig(weight_category=0.0), MCLDConfig(weight_instance=0.0)
    parts = [backend.to_numpy(given.contrast(labels, config=config)) for config in one]
    assert_value(backend.to_numpy(given.contrast(labels)), parts[0] + parts[1], scale=16.0)

"""What MCLDDistiller says of its models and of the logits of its first eager step."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import pytest

from mcld_core.keras import MCLDDistiller
from tests.keras.models import CLASSES, FEATURES, data, dense


def softmax_of(kind: str) -> keras.Model:
    """Return a model that answers with probabilities, made in one of the usual ways."""
    inputs = keras.Input((FEATURES,))
    dense_layer = keras.layers.Dense
    if kind == "activation":
        return keras.Sequential([inputs, dense_layer(CLASSES, activation="softmax", name="head")])
    if kind == "activation layer":
        head = keras.layers.Activation("softmax", name="head")
        return keras.Sequential([inputs, dense_layer(CLASSES), head])
    if kind == "softmax layer":
        head = keras.layers.Softmax(name="head")(dense_layer(CLASSES)(inputs))
        return keras.Model(inputs, head)
    if kind == "operation":
        return keras.Model(inputs, keras.ops.softmax(dense_layer(CLASSES)(inputs)))
    assert kind == "nested"
    return keras.Sequential([inputs, keras.layers.Dropout(0.1), softmax_of("activation")])


KINDS = ["activation", "activation layer", "softmax layer", "operation", "nested"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_softmax_head_is_said(kind: str) -> None:
    text = r"MCLDDistiller: the teacher ends in a softmax.*classifier_activation=None"
    with pytest.warns(UserWarning, match=text):
        MCLDDistiller(softmax_of(kind), dense(3))
    with pytest.warns(UserWarning, match="the student ends in a softmax"):
        MCLDDistiller(dense(3), softmax_of(kind))


def test_heads_of_keras_applications_are_said() -> None:
    def mobile(**options: Any) -> keras.Model:
        shape = {"input_shape": (32, 32, 3), "classes": 4, "alpha": 0.25, "weights": None}
        return keras.applications.MobileNet(**shape, **options)

    logits = mobile(classifier_activation=None)
    with pytest.warns(UserWarning, match="the teacher ends in a softmax") as found:
        MCLDDistiller(mobile(), logits)
    assert len(found) == 1
    assert found[0].filename == __file__


@keras.saving.register_keras_serializable("mcld_tests")
class Subclass(keras.Model):
    """A model whose layers show nothing before it is called."""

    def __init__(self, factor: float = 1.0, softmax: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(CLASSES)
        self.factor, self.softmax = factor, softmax

    def call(self, x: Any) -> Any:
        x = self.factor * self.dense(x)
        return keras.ops.softmax(x) if self.softmax else x


def fit(teacher: keras.Model, **options: Any) -> MCLDDistiller:
    x, y = data()
    teacher(x[:1])
    distiller = MCLDDistiller(teacher, dense(3))
    distiller.compile("sgd", **options)
    distiller.fit(x, y, verbose=0, batch_size=6)
    return distiller


@pytest.mark.parametrize(
    ("factor", "softmax", "text"),
    [(1.0, True, "every row of teacher_logits is ≥ 0"), (np.nan, False, "teacher_logits has nan")],
    ids=["probabilities", "NaN"],
)
def test_an_eager_first_step_is_looked_at_once(factor: float, softmax: bool, text: str) -> None:
    with pytest.warns(UserWarning, match=f"MCLDDistiller: {text}") as found:
        fit(Subclass(factor, softmax), run_eagerly=True)
    assert len([x for x in found if "MCLDDistiller" in str(x.message)]) == 1


def test_logits_are_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(Subclass(3.0, softmax=False), run_eagerly=True)

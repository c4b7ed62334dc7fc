"""`MCLDLoss`: cached teacher logits in `y_true`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from mcld_core import MCLDConfig
from mcld_core.keras import MCLDLoss
from tests.cases import make_case
from tests.keras.models import JIT_COMPILE, numpy, reference
from tests.tolerance import assert_gradient, assert_value

CASE = make_case(3, batch=6, classes=4)
SOFT = make_case(3, batch=6, classes=4, labels="soft").labels
M = 20.0  # above the largest similarity of the cases


def packed(teacher: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Teacher logits and labels side by side."""
    if labels is None:
        return teacher
    return np.concatenate([teacher, labels.reshape(len(teacher), -1)], axis=-1)


@pytest.mark.parametrize("labels", [CASE.labels, SOFT, None], ids=["int", "soft", "none"])
def test_equals_the_reference(labels: np.ndarray | None) -> None:
    loss = MCLDLoss()(packed(CASE.teacher, labels), CASE.student.astype("float32"))
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert_value(numpy(loss), reference(CASE.student, CASE.teacher, labels), "float32", M)


@pytest.mark.parametrize(
    ("keras_reduction", "ours"),
    [("mean_with_sample_weight", "mean"), ("sum", "sum"), (None, "none")],
)
def test_weights_ignored_rows_and_reductions(keras_reduction: str | None, ours: str) -> None:
    labels = CASE.labels.copy()
    labels[2] = -100
    weight = np.array([0.0, 2.0, 5.0, 1.0, 0.5, 0.0])
    loss = MCLDLoss(reduction=keras_reduction)(packed(CASE.teacher, labels), CASE.student, weight)
    expected = reference(CASE.student, CASE.teacher, labels, sample_weight=weight, reduction=ours)
    assert_value(numpy(loss), expected, "float32", M * len(labels))


def test_all_rows_ignored_is_zero() -> None:
    loss = MCLDLoss()(packed(CASE.teacher, np.full(6, -100)), CASE.student)
    assert float(numpy(loss)) == 0.0


def test_half_precision_predictions() -> None:
    half = keras.ops.convert_to_tensor(CASE.student, dtype="float16")  # exact: multiples of 1/16
    loss = MCLDLoss()(packed(CASE.teacher, CASE.labels), half)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    expected = reference(CASE.student, CASE.teacher, CASE.labels)
    assert_value(numpy(loss), expected, "float32", M)


def test_survives_serialisation() -> None:
    loss = MCLDLoss(MCLDConfig(weight_sample=0.5), progress=0.5, reduction="sum", name="other")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(again, MCLDLoss)
    assert again.get_config() == loss.get_config()
    assert again.config == MCLDConfig(weight_sample=0.5)
    assert (again.reduction, again.name, again.progress) == ("sum", "other", 0.5)


def test_targets_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"MCLDLoss: y_true needs shape .*; got \(6, 6\) for 4"):
        MCLDLoss()(np.zeros((6, 6)), CASE.student)


def test_a_dtype_that_cannot_hold_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="MCLDLoss: dtype needs 'float32' or 'float64'"):
        MCLDLoss(dtype="bfloat16")


def fit_identity(start: np.ndarray, **how: Any) -> tuple[float, np.ndarray]:
    """One step at learning rate 1 of a student whose logits are its weights."""
    rows, classes = start.shape
    student = keras.Sequential([keras.Input((rows,)), keras.layers.Dense(classes, use_bias=False)])
    student.set_weights([start])
    student.compile(keras.optimizers.SGD(1.0), loss=MCLDLoss(), **how)
    y_true = packed(CASE.teacher, CASE.labels).astype("float32")
    weight = np.array([1.0, 2.0, 0.0, 1.0, 1.0, 3.0], "float32")
    history = student.fit(
        np.eye(rows, dtype="float32"),
        y_true,
        sample_weight=weight,
        batch_size=rows,
        verbose=0,
        shuffle=False,
    )
    return history.history["loss"][0], start - student.get_weights()[0]


@pytest.mark.parametrize("jit_compile", JIT_COMPILE)
def test_fit_follows_the_gradient(jit_compile: str | bool) -> None:
    value, gradient = fit_identity(CASE.student.astype("float32"), jit_compile=jit_compile)
    weight = np.array([1.0, 2.0, 0.0, 1.0, 1.0, 3.0])

    def at(student: np.ndarray) -> float:
        return float(reference(student, CASE.teacher, CASE.labels, sample_weight=weight))

    assert_value(value, at(CASE.student), "float32", M)
    expected = np.zeros_like(CASE.student)
    for place in np.ndindex(CASE.student.shape):
        step = np.zeros_like(CASE.student)
        step[place] = 1e-4
        expected[place] = (at(CASE.student + step) - at(CASE.student - step)) / 2e-4
    assert_gradient(gradient, expected, "float32", M)

"""`MCLDDistiller` in `fit`, `evaluate` and `predict`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.keras import MCLDDistiller
from tests.keras.models import (
    CLASSES,
    FEATURES,
    JIT_COMPILE,
    CountingCalls,
    cross_entropy,
    data,
    dense,
    logits,
    numpy,
    reference,
    with_batch_norm,
)
from tests.tolerance import assert_value

M = 100.0


def standing(distiller: MCLDDistiller, **compile_arguments: Any) -> MCLDDistiller:
    """Compile at learning rate 0: every step sees the first weights."""
    distiller.compile(keras.optimizers.SGD(0.0), **compile_arguments)
    return distiller


def batch_loss(distiller: MCLDDistiller, x: np.ndarray, y: Any, weight: Any = None) -> float:
    """`compute_loss` of one batch outside of `fit`, without moving the distiller's state."""
    loss = distiller.compute_loss(x, y, distiller.student(x), weight, training=False)
    return float(numpy(loss))


def parts_of(s: np.ndarray, t: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The terms of the reference."""
    return mcld_loss(s, t, y, return_terms=True)[1]


@pytest.mark.parametrize("jit_compile", JIT_COMPILE)
def test_the_history_is_right(jit_compile: str | bool) -> None:
    """Two unequal batches an epoch, three epochs: trackers, ramp and accuracy, step by step."""
    x, y = data(12)
    teacher, student = dense(16), dense(3, regularizer="l2")
    distiller = standing(
        MCLDDistiller(teacher, student, total_steps=6, show_terms=True), metrics=["accuracy"],
        jit_compile=jit_compile,
    )  # fmt: skip
    history = distiller.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0).history

    s, t = logits(student, x), logits(teacher, x)
    penalty = 0.01 * float((student.get_weights()[2].astype("float64") ** 2).sum())
    first, second = slice(0, 8), slice(8, 12)
    for epoch in range(3):
        parts = [
            len(s[rows]) * reference(s[rows], t[rows], y[rows], progress=(2 * epoch + batch) / 6)
            for batch, rows in enumerate((first, second))
        ]
        mcld = sum(parts) / 12
        assert_value(history["distillation_loss"][epoch], mcld, "float32", M)
        assert_value(history["total_loss"][epoch], mcld + penalty, "float32", M)
        assert_value(history["loss"][epoch], mcld + penalty, "float32", M)
        supervised = cross_entropy(s, y).mean() + penalty
        assert_value(history["student_loss"][epoch], supervised, "float32", M)
        assert_value(history["accuracy"][epoch], (s.argmax(1) == y).mean(), "float32")
        assert_value(history["term_ramp"][epoch], (2 * epoch + 1 / 3) / 6, "float32")
        for term in ("instance", "sample", "category"):
            parts = [
                len(s[rows]) * parts_of(s[rows], t[rows], y[rows])[term] for rows in (first, second)
            ]
            assert_value(history[f"term_{term}"][epoch], sum(parts) / 12, "float32", M)
    assert int(numpy(distiller.steps_done)) == 6


def test_all_forms_of_labels() -> None:
    x, y = data(12)
    distiller = MCLDDistiller(dense(16), dense(3), evaluate_distillation=True)
    s, t = logits(distiller.student, x), logits(distiller.teacher, x)
    one_hot = np.eye(CLASSES)[y]
    expected = reference(s, t, y)
    for form in (y, y.astype("uint8")[:, None], one_hot.astype("float32"), one_hot.astype("int32")):
        assert_value(batch_loss(distiller, x, form), expected, "float32", M)
    smooth = (0.9 * one_hot + 0.1 / CLASSES).astype("float32")
    assert_value(batch_loss(distiller, x, smooth), reference(s, t, smooth), "float32", M)
    assert_value(batch_loss(distiller, x, None), reference(s, t), "float32", M)
    assert abs(reference(s, t) - expected) > 1e-2


def test_sample_weights_and_class_weights_are_used() -> None:
    """Weights of zero: the loss in `fit` is that of the rows that are left."""
    x, y = data(12)
    distiller = standing(MCLDDistiller(dense(16), dense(3)))
    s, t = logits(distiller.student, x), logits(distiller.teacher, x)

    def fitted(**weights: Any) -> dict[str, float]:
        history = distiller.fit(x, y, batch_size=12, verbose=0, shuffle=False, **weights).history
        return {name: values[0] for name, values in history.items()}

    sample_weight = np.array([0, 3, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0], "float32")
    class_weight = {0: 0.0, 1: 4.0, 2: 0.0, 3: 0.5}
    for given, v in (
        ({"sample_weight": sample_weight}, sample_weight),
        ({"sample_weight": sample_weight[:, None]}, sample_weight),
        ({"class_weight": class_weight}, np.array([class_weight[label] for label in y])),
    ):
        logs = fitted(**given)
        rows = reference(s, t, y, reduction="none")
        expected = (v * rows).sum() / v.sum()
        assert abs(expected - rows.mean()) > 1e-2
        assert_value(logs["distillation_loss"], expected, "float32", M)
        supervised = (v * cross_entropy(s, y)).sum() / v.sum()
        assert_value(logs["student_loss"], supervised, "float32", M)


def test_only_zero_weights_train_nothing() -> None:
    x, y = data(12)
    distiller = MCLDDistiller(dense(16), dense(3))
    distiller.compile(keras.optimizers.SGD(1.0))
    before = distiller.student.get_weights()
    history = distiller.fit(x, y, sample_weight=np.zeros(12), batch_size=12, verbose=0).history
    assert history["loss"] == [0.0]
    for old, new in zip(before, distiller.student.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("bank_size", [0, 8])
def test_another_ignore_index_drops_as_well(bank_size: int) -> None:
    """In a step, in `fit` and in `evaluate`, with a bank and without."""
    x, y = data(12)
    with_255, with_default = y.copy(), y.copy()
    with_255[:5], with_default[:5] = 255, -100
    teacher, student = dense(16), dense(3)
    found = []
    for config, labels in ((MCLDConfig(ignore_index=255), with_255), (None, with_default)):
        distiller = standing(
            MCLDDistiller(teacher, student, config, bank_size=bank_size, evaluate_distillation=True)
        )
        numbers = [batch_loss(distiller, x, labels)]
        history = distiller.fit(
            x, labels, batch_size=12, epochs=2, verbose=0, shuffle=False
        ).history
        numbers += [number for name in sorted(history) for number in history[name]]
        logs = distiller.evaluate(x, labels, batch_size=12, verbose=0, return_dict=True)
        numbers += [logs[name] for name in sorted(logs)]
        found.append(numbers)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    assert np.isfinite(found[0]).all()


def counted(units: int) -> tuple[keras.Model, CountingCalls]:
    """A model and the layer that counts its calls."""
    counter = CountingCalls()
    inner = dense(units)
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, inner(counter(inputs))), counter


def test_fit_trains_the_student_alone_and_evaluate_changes_nothing() -> None:
    x, y = data(12)
    (teacher, counter), student = counted(16), with_batch_norm()
    counter.calls.assign(0)
    distiller = MCLDDistiller(teacher, student, total_steps=4, bank_size=8)
    distiller.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"])
    frozen, start = teacher.layers[-1].get_weights(), student.get_weights()
    distiller.fit(x, y, batch_size=12, epochs=2, verbose=0, validation_data=(x, y))
    for old, new in zip(frozen, teacher.layers[-1].get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert int(numpy(counter.calls)) == 2  # once a training step, never for the validation
    mean = start[2]
    for _ in range(2):  # the statistics move once a step, not twice
        mean = 0.5 * mean + 0.5 * x.mean(0)
    np.testing.assert_allclose(student.get_weights()[2], mean, rtol=1e-5, atol=1e-6)

    state = {weight.path: numpy(weight) for weight in distiller.weights}
    logs = distiller.evaluate(x, y, batch_size=5, verbose=0, return_dict=True)
    assert set(logs) == {"loss", "student_loss", "accuracy"}
    s = logits(student, x)
    assert_value(logs["loss"], cross_entropy(s, y).mean(), "float32", M)
    assert_value(logs["student_loss"], cross_entropy(s, y).mean(), "float32", M)
    assert_value(logs["accuracy"], (s.argmax(1) == y).mean(), "float32")
    np.testing.assert_allclose(distiller.predict(x, verbose=0), s, rtol=1e-5, atol=1e-5)
    for weight in distiller.weights:
        np.testing.assert_array_equal(state[weight.path], numpy(weight), err_msg=weight.path)


def test_evaluate_with_the_teacher() -> None:
    x, y = data(12)
    teacher, counter = counted(16)
    counter.calls.assign(0)
    distiller = standing(MCLDDistiller(teacher, dense(3), evaluate_distillation=True))
    logs = distiller.evaluate(x, y, batch_size=12, verbose=0, return_dict=True)
    assert int(numpy(counter.calls)) == 1
    assert set(logs) == {"loss", "student_loss", "distillation_loss", "total_loss"}
    expected = reference(logits(distiller.student, x), logits(teacher, x), y)
    assert_value(logs["loss"], expected, "float32", M)
    assert_value(logs["distillation_loss"], expected, "float32", M)
    assert_value(logs["total_loss"], expected, "float32", M)


def test_without_labels() -> None:
    x, _ = data(12)
    distiller = standing(MCLDDistiller(dense(16), dense(3)))
    logs = distiller.fit(x, batch_size=12, verbose=0).history
    assert set(logs) == {"loss", "distillation_loss", "total_loss"}
    s, t = logits(distiller.student, x), logits(distiller.teacher, x)
    assert_value(logs["loss"][0], reference(s, t), "float32", M)


def test_the_loss_of_compile_is_shown_and_not_minimised() -> None:
    x, y = data(12)
    distiller = standing(
        MCLDDistiller(dense(16), dense(3)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    weight = np.arange(12, dtype="float32")
    logs = distiller.fit(x, y, sample_weight=weight, batch_size=12, verbose=0).history
    s, t = logits(distiller.student, x), logits(distiller.teacher, x)
    supervised = (weight * cross_entropy(s, y)).mean()  # the convention of Keras' own losses
    assert_value(logs["student_loss"][0], supervised, "float32", M)
    assert_value(logs["loss"][0], reference(s, t, y, sample_weight=weight), "float32", M)


def test_a_float32_teacher_teaches_a_mixed_float16_student() -> None:
    x, y = data(12)
    teacher, student = dense(16), dense(3, dtype="mixed_float16")
    distiller = MCLDDistiller(
        teacher, student, MCLDConfig(category_warmup=0), bank_size=8, dtype="mixed_float16"
    )
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
    distiller.compile(optimizer)
    s = logits(student, x)
    assert keras.backend.standardize_dtype(student(x).dtype) == "float16"
    history = distiller.fit(x, y, batch_size=12, epochs=12, verbose=0, shuffle=False).history
    bank = distiller.bank.value
    assert keras.backend.standardize_dtype(bank.vectors.dtype) == "float32"
    assert_value(history["loss"][0], reference(s, logits(teacher, x), y), "float32", 1e3)
    assert np.isfinite(history["loss"]).all()
    assert history["student_loss"][-1] < history["student_loss"][0]
    assert all(weight.dtype == "float32" for weight in student.get_weights())


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="MCLDDistiller: total_steps needs an int ≥ 1"):
        MCLDDistiller(dense(8), dense(3), total_steps=0)
    with pytest.raises(TypeError, match="MCLDDistiller: show_terms needs True or False; got 'all'"):
        MCLDDistiller(dense(8), dense(3), show_terms="all")
    with pytest.raises(ValueError, match="MCLDDistiller: bank_size needs an int ≥ 0; got -1"):
        MCLDDistiller(dense(8), dense(3), bank_size=-1)
    unbuilt = keras.Sequential([keras.layers.Dense(CLASSES)])
    with pytest.raises(ValueError, match=r"need the number of classes; got None.* an Input"):
        MCLDDistiller(dense(8), unbuilt, bank_size=8)
    other = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES + 1)])
    with pytest.raises(ValueError, match="output shapes are incompatible"):
        MCLDDistiller(dense(8), other)
    two = keras.Model(other.inputs, [other.outputs[0], other.outputs[0]])
    with pytest.raises(ValueError, match="MCLDDistiller: student needs one output, of logits; got"):
        MCLDDistiller(dense(8), two, bank_size=8)


def test_a_call_that_raises_leaves_nothing() -> None:
    """Bank, means, steps and log are as before, and a retry pushes its rows once."""
    config = MCLDConfig(category_contrast="prototypes")
    options: dict[str, Any] = {"bank_size": 9, "class_means": True, "total_steps": 4}
    distiller = MCLDDistiller(dense(16), dense(3), config, **options)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = data()
    before = [numpy(variable) for variable in distiller.variables]
    with pytest.raises(ValueError, match="sample_weight needs finite numbers"):
        distiller.compute_loss(x, y, distiller(x), -np.ones(len(y), "float32"))
    for variable, value in zip(distiller.variables, before, strict=True):
        np.testing.assert_array_equal(numpy(variable), value, err_msg=variable.path)
    distiller.compute_loss(x, y, distiller(x), np.ones(len(y), "float32"))
    assert numpy(distiller.bank.value.where).sum() == min(9, len(y))
    assert int(distiller.steps_done) == 1


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_state_stays_float32_in_half_precision(policy: str) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        config = MCLDConfig(category_contrast="prototypes")
        prior = [1e-9, *[70001.0] * (CLASSES - 1)]
        options: dict[str, Any] = {"bank_size": 9, "class_means": True, "class_prior": prior}
        distiller = MCLDDistiller(dense(16), dense(3), config, **options)
        x, y = data()
        assert np.isfinite(numpy(distiller.compute_loss(x, y, distiller(x))))
    finally:
        keras.config.set_dtype_policy(before)
    assert {keras.backend.standardize_dtype(v.dtype) for v in distiller.class_means.value} == {
        "float32"
    }
    assert distiller.class_prior.dtype == np.float32
    assert distiller.class_prior[0] > 0

"""The label-free `MCLDDistillation`, and what Keras' own default computes instead."""

from __future__ import annotations

import keras
import numpy as np
from keras.distillation import Distiller, LogitsDistillation

from mcld_core import MCLDConfig, kd_loss
from mcld_core.keras import MCLDDistillation
from tests.cases import make_case
from tests.keras.models import data, dense, logits, numpy, reference
from tests.tolerance import assert_value

CASE = make_case(5, batch=6, classes=4)
STUDENT, TEACHER = CASE.student.astype("float32"), CASE.teacher.astype("float32")
PLAIN_KL = MCLDConfig(
    weight_instance=0, weight_category=0, weight_sample=1, sample_target_mask=False,
    sample_temperature=3.0,
)  # fmt: skip
M = 20.0


def value(loss: keras.distillation.DistillationLoss) -> np.ndarray:
    teacher, student = (keras.ops.convert_to_tensor(x) for x in (TEACHER, STUDENT))
    return numpy(loss.compute_loss(teacher, student))


def clipped_kl_of_raw_logits(temperature: float) -> float:
    """Σ p log(p / q) of logits, clipped into [1e-7, 1] as if they were probabilities."""
    p, q = (np.clip(CASE_SIDE / temperature, 1e-7, 1.0) for CASE_SIDE in (TEACHER, STUDENT))
    return float((p * np.log(p / q)).sum(1).mean())


def test_keras_default_is_no_kl_of_softened_probabilities() -> None:
    """`LogitsDistillation()` takes the KL of clipped raw logits; ours is T² KL."""
    right = kd_loss(CASE.student, CASE.teacher, temperature=3.0)
    theirs = value(LogitsDistillation())
    assert_value(theirs, clipped_kl_of_raw_logits(3.0), "float32", M)
    assert abs(theirs - right) > 0.1 * abs(right)
    assert_value(value(MCLDDistillation(PLAIN_KL)), right, "float32", M)
    given = LogitsDistillation(loss=keras.losses.KLDivergence())
    assert_value(value(given), right, "float32", M)


def test_equals_the_reference_without_labels() -> None:
    expected = reference(CASE.student, CASE.teacher)
    assert_value(value(MCLDDistillation()), expected, "float32", M)
    expected = reference(CASE.student, CASE.teacher, progress=0.5)
    assert_value(value(MCLDDistillation(progress=0.5)), expected, "float32", M)


def test_survives_serialisation() -> None:
    loss = MCLDDistillation(MCLDConfig(similarity="cosine"), progress=0.5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(again, MCLDDistillation)
    assert (again.config, again.progress) == (MCLDConfig(similarity="cosine"), 0.5)


def test_in_the_distiller_of_keras() -> None:
    x, y = data()
    teacher, student = dense(16), dense(3)
    distiller = Distiller(teacher, student, MCLDDistillation(), student_loss_weight=0.0)
    expected = reference(logits(student, x), logits(teacher, x))
    distiller.compile(keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy")
    history = distiller.fit(x, y, batch_size=len(x), verbose=0)
    assert_value(history.history["distillation_loss"][0], expected, "float32", M)

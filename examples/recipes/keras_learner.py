"""What `fit` trains: a student under one of the losses of `methods`, on any Keras backend."""

from __future__ import annotations

import argparse
from typing import Any

import keras
from keras import ops

from mcld_core.backends.keras import MCLDDistiller

from .methods import mcld_config, method_loss

TERMS = {"ce": ("ce",), "kd": ("ce", "kd"), "kd-ls": ("ce", "kd"), "dkd": ("ce", "dkd")}


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the mean cross-entropy of int labels."""
    logits = ops.cast(logits, "float32")
    return ops.mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))


class SGD(keras.optimizers.SGD):
    """SGD whose weight decay is part of the gradient, as in the published recipe.

    Keras' own ``weight_decay`` shrinks the weights beside the momentum: another, weaker rule.
    """

    def __init__(self, learning_rate: float, momentum: float, decay: float) -> None:
        super().__init__(learning_rate, momentum=momentum)
        self.decay = decay

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update the variables by gradient + decay · variable."""
        if trainable_variables is None:
            variables = self._trainable_variables
        else:
            variables = trainable_variables
        grads = [
            gradient + ops.cast(self.decay * ops.convert_to_tensor(variable), gradient.dtype)
            for gradient, variable in zip(grads, variables, strict=True)
        ]
        super().apply(grads, trainable_variables)


class Baseline(keras.Model):
    """A student under cross-entropy, KD or DKD, with a step counter for DKD's warm-up."""

    def __init__(
        self,
        teacher: keras.Model | None,
        student: keras.Model,
        method: str,
        options: argparse.Namespace,
        total_steps: int,
    ) -> None:
        super().__init__(name="baseline")
        self.teacher, self.student = teacher, student
        if teacher is not None:
            teacher.trainable = False
        self.method_loss = method_loss(method, options, cross_entropy)
        self.total_steps = total_steps
        self.steps_done = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="steps_done"
        )
        self.term_trackers = {
            name: keras.metrics.Mean(name=f"term_{name}") for name in TERMS[method]
        }
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Return the student's logits."""
        return self.student(x, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the method's loss, and show its terms."""
        teacher = None if self.teacher is None else self.teacher(x, training=False)
        progress = ops.cast(self.steps_done, "float32") / self.total_steps
        loss, terms = self.method_loss(y_pred, teacher, ops.convert_to_tensor(y), progress)
        for name, tracker in self.term_trackers.items():
            tracker.update_state(terms[name], ops.shape(y_pred)[0])
        if training:
            self.steps_done.assign_add(1)
        return loss


def make_learner(
    method: str,
    student: keras.Model,
    teacher: keras.Model | None,
    options: argparse.Namespace,
    total_steps: int,
) -> keras.Model:
    """Return the model to ``fit``: `MCLDDistiller` for MCLD, else a `Baseline`."""
    if method.startswith("mcld"):
        return MCLDDistiller(
            teacher,
            student,
            mcld_config(options, method),
            total_steps=total_steps,
            bank_size=options.bank_size,
            show_terms=True,
        )
    return Baseline(teacher, student, method, options, total_steps)


def with_cached_teacher(student: keras.Model, classes: int) -> tuple[keras.Model, keras.Model]:
    """Return teacher and student for inputs (images, the teacher's logits of them)."""
    inputs = [keras.Input(student.input_shape[1:]), keras.Input((classes,))]
    teacher = keras.Model(inputs, keras.layers.Identity(dtype="float32")(inputs[1]))
    return teacher, keras.Model(inputs, student(inputs[0]))

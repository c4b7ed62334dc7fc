"""What `fit` trains: a student under one of the losses of `methods`, on any Keras backend."""

from __future__ import annotations

import argparse
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from mcld_core import TeacherBank
from mcld_core.backends.keras import MCLDDistiller

from .old_methods import mcld_config, method_loss

TERMS = {"ce": ("ce",), "kd": ("ce", "kd"), "kd-ls": ("ce", "kd"), "dkd": ("ce", "dkd")}
MCLD_TERMS = ("instance", "sample", "category", "ramp")


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


class WholeSet(keras.layers.Layer):
    """The teacher's rows of all training images, as keys. No checkpoint holds them.

    They are variables because XLA would take minutes over constants of this size.
    """

    def __init__(self, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        super().__init__(name="whole_set", trainable=False)
        bank = TeacherBank.from_logits(logits, labels.astype("int32"))
        self.fields = [
            self.add_weight(
                shape=field.shape,
                dtype=str(field.dtype),
                initializer=lambda shape, dtype, field=field: ops.convert_to_tensor(field, dtype),
                trainable=False,
                autocast=False,
            )
            for field in map(np.asarray, bank)
        ]
        self.built = True

    def bank(self) -> TeacherBank:
        """Return the rows in tensors of Keras' backend."""
        return TeacherBank(*map(ops.convert_to_tensor, self.fields))

    def save_own_variables(self, store: Any) -> None:
        """Save nothing: the frozen teacher gives the same rows again."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing."""


class MethodModel(keras.Model):
    """A student under a loss of `methods`, with a step counter for the ramps.

    Args:
        teacher: frozen; None for cross-entropy.
        student: returns logits.
        method: of `methods`.
        options: its settings.
        total_steps: of the whole training.
        whole_set: keys for MCLD; the last of the inputs are then the images' rows among them.
    """

    def __init__(
        self,
        teacher: keras.Model | None,
        student: keras.Model,
        method: str,
        options: argparse.Namespace,
        total_steps: int,
        whole_set: WholeSet | None = None,
    ) -> None:
        super().__init__(name="method_model")
        self.teacher, self.student, self.whole_set = teacher, student, whole_set
        if teacher is not None:
            teacher.trainable = False
        self.method_loss = method_loss(method, options, cross_entropy)
        self.total_steps = total_steps
        self.steps_done = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="steps_done"
        )
        names = TERMS.get(method, MCLD_TERMS)
        if method not in TERMS and mcld_config(options, method).weight_ce:
            names = (*names, "ce")
        self.term_trackers = {name: keras.metrics.Mean(name=f"term_{name}") for name in names}
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
        labels = ops.convert_to_tensor(y)
        teacher = keys = None
        if self.teacher is not None:
            teacher = self.teacher(x, training=False)
        if self.whole_set is not None:
            keys = self.whole_set.bank().keys(teacher, labels, index=x[-1])
        progress = ops.cast(self.steps_done, "float32") / self.total_steps
        loss, terms = self.method_loss(y_pred, teacher, labels, progress, keys)
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
    whole_set: WholeSet | None = None,
) -> keras.Model:
    """Return the model to ``fit``: `MCLDDistiller` for MCLD, and else a `MethodModel`.

    The distiller's bank holds earlier batches; a whole training set as keys is a `MethodModel`'s.
    """
    if method.startswith("mcld") and whole_set is None:
        return MCLDDistiller(
            teacher,
            student,
            mcld_config(options, method),
            total_steps=total_steps,
            bank_size=options.bank_size,
            show_terms=True,
        )
    return MethodModel(teacher, student, method, options, total_steps, whole_set)


def with_more_inputs(
    teacher: keras.Model, student: keras.Model, *, cached: bool, indexed: bool
) -> tuple[keras.Model, keras.Model]:
    """Return teacher and student for inputs (images, the teacher's logits if cached, rows)."""
    inputs = [keras.Input(student.input_shape[1:])]
    if cached:
        inputs.append(keras.Input(student.output_shape[1:]))
    if indexed:
        inputs.append(keras.Input((), dtype="int32"))
    answers = keras.layers.Identity(dtype="float32")(inputs[1]) if cached else teacher(inputs[0])
    return keras.Model(inputs, answers), keras.Model(inputs, student(inputs[0]))

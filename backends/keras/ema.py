"""The student's averaged weights as its teacher, on each of Keras' backends."""

from __future__ import annotations

from typing import Any

import keras

from mcld_core.extensions.teachers import ema_decay


class EMATeacher(keras.callbacks.Callback):
    """A callback whose `model_average` has the student's weights averaged over its steps.

    Pass it to ``fit`` and its ``model_average`` to `MCLDDistiller` as the teacher; after each
    batch the average takes a step. In a loop of your own call `update`. Weights that are not
    trainable (batch statistics, seeds) are copied.

    Args:
        student: a built model.
        model_average: a built model of the same architecture, for a student that
            ``keras.models.clone_model`` cannot clone; None: a clone.
        decay: of `mcld_core.extensions.teachers.ema_update`, 0 … 1.
        warm_up: start from a lower decay: ``min(decay, (1 + updates) / (10 + updates))``.

    References:
        A. Tarvainen, H. Valpola, "Mean teachers are better role models", NeurIPS 2017.
    """

    def __init__(
        self,
        student: Any,
        model_average: Any = None,
        *,
        decay: float = 0.999,
        warm_up: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"EMATeacher: decay needs a number in 0 … 1; got {decay!r}")
        self.student, self.decay, self.warm_up, self.updates = student, decay, warm_up, 0
        clone = keras.models.clone_model(student) if model_average is None else model_average
        if len(clone.weights) != len(student.weights):
            raise ValueError(
                "EMATeacher: model_average and student need the same weights; got "
                f"{len(clone.weights)} and {len(student.weights)} arrays. Build both first"
            )
        clone.set_weights(student.get_weights())
        clone.trainable = False
        self.model_average = clone

    def update(self) -> None:
        """Take one step of the average towards the student's weights."""
        decay = ema_decay(self.updates, self.decay) if self.warm_up else self.decay
        trainable = {id(weight) for weight in self.student.trainable_weights}
        for average, weight in zip(self.model_average.weights, self.student.weights, strict=True):
            if id(weight) in trainable:
                average.assign(decay * average + (1.0 - decay) * weight)
            else:
                average.assign(weight)
        self.updates += 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Follow the student after each batch of ``fit``."""
        _ = self.model  # on JAX, reading it brings the variables up to date with the step
        self.update()

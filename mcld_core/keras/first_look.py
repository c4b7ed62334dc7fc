"""What `MCLDDistiller` sees of its models before a training."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from mcld_core.adapters import SWAPPED


def look_at_models(teacher: keras.Model, student: keras.Model) -> None:
    """Warn of models that end in a softmax, as those of keras.applications, or look swapped."""
    for name, model in (("teacher", teacher), ("student", student)):
        layer = softmax_head(model)
        if layer is not None:
            _warn(
                f"the {name} ends in a softmax ({layer}), and the loss takes logits. Build it "
                "without (keras.applications: classifier_activation=None)"
            )
    if student.weights and teacher.trainable_weights and not student.trainable_weights:
        _warn(SWAPPED.format("Pass the teacher first, the student second"))


def softmax_head(model: Any) -> str | None:
    """Return the name of the softmax that a model's output comes from; None where none is seen.

    A model whose layers are not known before it is called (a subclass) shows nothing.
    """
    outputs = getattr(model, "outputs", None)
    while outputs:
        history = outputs[0]._keras_history
        operation = history.operation
        if not isinstance(operation, keras.Model):
            activation = getattr(operation, "activation", None)
            is_softmax = activation is keras.activations.softmax
            return operation.name if is_softmax or type(operation).__name__ == "Softmax" else None
        outputs = getattr(operation, "outputs", None) and operation.outputs[history.tensor_index :]
    return None


def _warn(text: str) -> None:
    warnings.warn(f"MCLDDistiller: {text}", UserWarning, stacklevel=4)

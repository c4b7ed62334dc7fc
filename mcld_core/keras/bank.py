"""The state of a `TeacherBank` and of `ClassMeans` as Keras variables, saved with the model."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class State(keras.layers.Layer):
    """Variables that are neither trained nor cast, and are the same on every replica.

    Args:
        start: the `TeacherBank` or the `ClassMeans` that they hold at first.
    """

    def __init__(self, start: Any) -> None:
        super().__init__(name=type(start).__name__.lower(), trainable=False)
        self._kind = type(start)
        self._fields = [
            self.add_weight(
                shape=value.shape,
                initializer=lambda shape, dtype, value=value: ops.cast(value, dtype),
                dtype=keras.backend.standardize_dtype(value.dtype),
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",
                name=name,
            )
            for name, value in start._asdict().items()
        ]
        self.built = True

    @property
    def value(self) -> Any:
        """The bank or the means, in tensors of Keras' backend, in TensorFlow's graphs too."""
        return self._kind(*(ops.convert_to_tensor(field.value) for field in self._fields))

    def assign(self, state: Any) -> None:
        """Take over a bank or means of the same shape."""
        for field, new in zip(self._fields, state, strict=True):
            field.assign(new)

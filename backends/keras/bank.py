"""The state of a `TeacherBank` and of `ClassMeans` as Keras variables, saved with the model."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mcld_core.bank import TeacherBank
from mcld_core.running_means import ClassMeans
from mcld_core.typing import Array


class _State(keras.layers.Layer):
    """Variables that are neither trained nor cast, and are the same on every replica."""

    def _variable(
        self, name: str, shape: tuple[int, ...], dtype: str, start: Any
    ) -> keras.Variable:
        return self.add_weight(
            shape=shape,
            initializer=lambda shape, dtype: ops.full(shape, start, dtype=dtype),
            dtype=dtype,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )


class BankVariables(_State):
    """Variables that hold a `TeacherBank`: its rows, their labels and masks, and the cursor.

    Args:
        capacity: how many teacher rows it holds.
        classes: the width of a row.
        soft_labels: whether labels are stored as (capacity, classes).
    """

    def __init__(self, capacity: int, classes: int, *, soft_labels: bool = False) -> None:
        super().__init__(name="teacher_bank", trainable=False)
        self._logits = self._variable("logits", (capacity, classes), "float32", 0.0)
        self._labels = (
            self._variable("labels", (capacity, classes), "float32", 0.0)
            if soft_labels
            else self._variable("labels", (capacity,), "int32", -1)
        )
        self._where = self._variable("where", (capacity,), "bool", False)
        self._ids = self._variable("ids", (capacity,), "int32", -1)
        self._cursor = self._variable("cursor", (), "int32", 0)
        self.built = True

    @property
    def value(self) -> TeacherBank:
        """The bank, in tensors of Keras' backend."""
        return TeacherBank(*map(_tensor, self._all()))

    def assign(self, bank: TeacherBank) -> None:
        """Take over the rows and the cursor of a bank of the same shape."""
        for variable, new in zip(self._all(), bank, strict=True):
            variable.assign(new)

    def _all(self) -> tuple[keras.Variable, ...]:
        """The variables in the order of the fields of `TeacherBank`."""
        return self._logits, self._labels, self._where, self._ids, self._cursor


class MeansVariables(_State):
    """Variables that hold `ClassMeans`: the mean teacher row of each class, and its rows.

    Args:
        classes: the width of a row.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(name="class_means", trainable=False)
        self._means = self._variable("means", (classes, classes), "float32", 0.0)
        self._counts = self._variable("counts", (classes,), "float32", 0.0)
        self.built = True

    @property
    def value(self) -> ClassMeans:
        """The means, in tensors of Keras' backend."""
        return ClassMeans(_tensor(self._means), _tensor(self._counts))

    def assign(self, means: ClassMeans) -> None:
        """Take over the means of as many classes."""
        self._means.assign(means.means)
        self._counts.assign(means.counts)


def _tensor(variable: keras.Variable) -> Array:
    """Return what a variable holds: a tensor in TensorFlow's graphs too."""
    return ops.convert_to_tensor(variable.value)

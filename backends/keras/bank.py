"""The state of a `TeacherBank` as Keras variables, saved with the model."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mcld_core.bank import TeacherBank


class BankVariables(keras.layers.Layer):
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
        return TeacherBank(*(ops.convert_to_tensor(variable) for variable in self._all()))

    def assign(self, bank: TeacherBank) -> None:
        """Take over the rows and the cursor of a bank of the same shape."""
        for variable, new in zip(self._all(), bank, strict=True):
            variable.assign(new)

    def _all(self) -> tuple[keras.Variable, ...]:
        """The variables in the order of the fields of `TeacherBank`."""
        return self._logits, self._labels, self._where, self._ids, self._cursor

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

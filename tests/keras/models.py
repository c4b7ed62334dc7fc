"""Small models, data, and the reference that the tests compare with."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import mcld_core

FEATURES, CLASSES = 5, 4

#: Keras' default, and XLA where that is not the default on a CPU. (On JAX the default is jit. On
#: torch it is eager, and Keras under torch.compile takes minutes to trace.)
JIT_COMPILE = ("auto", True) if keras.backend.backend() == "tensorflow" else ("auto",)


def dense(units: int, *, regularizer: str | None = None, dtype: str | None = None) -> keras.Model:
    """A small model that returns logits, large enough that the loss is far from flat."""
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(units, activation="relu", dtype=dtype),
            keras.layers.Dense(CLASSES, kernel_regularizer=regularizer, dtype=dtype),
            keras.layers.Rescaling(3.0, dtype=dtype),
        ]
    )


def with_batch_norm() -> keras.Model:
    """A student with statistics that `fit` moves."""
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Dense(CLASSES),
        ]
    )


@keras.saving.register_keras_serializable("mcld_tests")
class CountingCalls(keras.layers.Layer):
    """Passes its input on and counts, on the device, how often it ran."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, dtype="int32")
        self.built = True

    def call(self, x: Any) -> Any:
        self.calls.assign_add(1)
        return x


def data(rows: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and int labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, FEATURES)).astype("float32")
    return x, rng.integers(0, CLASSES, rows).astype("int32")


def numpy(tensor: Any) -> np.ndarray:
    """A tensor of Keras' backend, or a variable, in NumPy."""
    return keras.ops.convert_to_numpy(tensor)


def logits(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """The model's logits at inference, in float64."""
    return numpy(model(x, training=False)).astype("float64")


def reference(
    student: np.ndarray, teacher: np.ndarray, labels: Any = None, **settings: Any
) -> np.ndarray:
    """MCLD of the same logits by the NumPy reference in float64."""
    loss = mcld_core.mcld_loss(
        student.astype("float64"), teacher.astype("float64"), labels, **settings
    )
    return np.asarray(loss)


def cross_entropy(student: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The cross-entropy of each row."""
    shifted = student - student.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -log_probabilities[np.arange(len(labels)), labels]

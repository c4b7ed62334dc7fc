"""Students in Keras, on whichever backend."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from tests.export.families import CLASSES, SIZE, VOCABULARY

SHAPE = (SIZE, SIZE, 3)


def images(family: str, scale: int) -> keras.Model:
    """Convolution with or without groups, batch norm, dropout."""
    inputs = keras.Input(SHAPE)
    make = (
        layers.DepthwiseConv2D
        if family == "depthwise"
        else lambda *a, **k: layers.Conv2D(8 * scale, *a, **k)
    )
    values = make(3, padding="same")(inputs)
    values = layers.ReLU()(layers.BatchNormalization()(values))
    values = layers.Conv2D(16 * scale, 1)(values)
    values = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(values))
    return keras.Model(inputs, layers.Dense(CLASSES[family])(values))


def encoder(scale: int) -> keras.Model:
    """One block of attention over tokens with a mask, any length."""
    width = 16 * scale
    tokens, mask = (keras.Input((None,), dtype="int32", name=name) for name in ("tokens", "mask"))
    values = layers.Embedding(VOCABULARY, width)(tokens)
    allowed = ops.expand_dims(mask, 1) > 0
    attended = layers.MultiHeadAttention(2, width // 2, dropout=0.1)(
        values, values, attention_mask=allowed
    )
    values = layers.LayerNormalization()(values + attended)
    values = values + layers.Dense(width)(layers.Dense(2 * width, activation="gelu")(values))
    valid = ops.cast(ops.expand_dims(mask, -1), "float32")
    values = ops.sum(values * valid, axis=1) / ops.sum(valid, axis=1)
    return keras.Model([tokens, mask], layers.Dense(CLASSES["encoder"])(values))


def series(scale: int) -> keras.Model:
    """A 1-D convolution, batch norm, the mean over time."""
    inputs = keras.Input((None, 4))
    values = layers.Conv1D(12 * scale, 5, padding="same")(inputs)
    values = layers.Activation("gelu")(layers.BatchNormalization()(values))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(values)))


def build(family: str, scale: int = 1) -> keras.Model:
    """One student, batch norm away from its start."""
    keras.utils.set_random_seed(0)
    makers = {"encoder": encoder, "series": series}
    student = makers[family](scale) if family in makers else images(family, scale)
    generator = np.random.default_rng(0)
    for layer in student.layers:
        if isinstance(layer, layers.BatchNormalization):
            width = layer.moving_mean.shape
            layer.moving_mean.assign(generator.uniform(-1, 1, width))
            layer.moving_variance.assign(generator.uniform(0.5, 2.0, width))
    return student

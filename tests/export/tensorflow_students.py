"""Students in TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tests.export.families import CLASSES, VOCABULARY


class Student(tf.Module):
    """Variables by name, drawn once; batch norm is that of inference."""

    def __init__(self, family: str, scale: int = 1) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)
        self.classes = CLASSES[family]
        self.scale = scale
        self.weights: dict[str, tf.Variable] = {}
        self.body = getattr(self, family)

    def weight(self, name: str, *shape: int, scale: float = 0.3) -> tf.Variable:
        if name not in self.weights:
            values = self.generator.normal(0.0, scale, size=shape)
            self.weights[name] = tf.Variable(values.astype(np.float32))
        return self.weights[name]

    def batch_norm(self, values: Any, name: str) -> Any:
        width = values.shape[-1]
        mean, deviation, offset, scale = (
            self.weight(f"{name}.{part}", width) for part in ("mean", "std", "offset", "scale")
        )
        variance = deviation**2 + 0.5
        return tf.nn.batch_normalization(values, mean, variance, offset, scale, 1e-3)

    def head(self, values: Any) -> Any:
        return values @ self.weight("head", values.shape[-1], self.classes)

    def cnn(self, images: Any) -> Any:
        values = tf.nn.conv2d(images, self.weight("conv", 3, 3, 3, 8 * self.scale), 1, "SAME")
        values = tf.nn.max_pool2d(tf.nn.relu(self.batch_norm(values, "bn")), 2, 2, "VALID")
        return self.head(tf.reshape(values, (-1, 6 * 6 * 8 * self.scale)))

    def depthwise(self, images: Any) -> Any:
        filters = self.weight("depthwise", 3, 3, 3, 2)
        values = tf.nn.depthwise_conv2d(images, filters, [1, 2, 2, 1], "SAME")
        values = tf.nn.conv2d(values, self.weight("pointwise", 1, 1, 6, 16 * self.scale), 1, "SAME")
        return self.head(tf.reduce_mean(tf.nn.relu6(values), axis=(1, 2)))

    def encoder(self, tokens: Any, mask: Any) -> Any:
        width = 16 * self.scale
        values = tf.gather(self.weight("embedding", VOCABULARY, width, scale=1.0), tokens)
        query, key, value = (values @ self.weight(name, width, width) for name in "qkv")
        scores = tf.matmul(query, key, transpose_b=True) / 4
        scores = tf.where(mask[:, None, :] > 0, scores, -1e9)
        values = values + tf.nn.softmax(scores) @ value
        hidden = tf.nn.gelu(values @ self.weight("up", width, 2 * width))
        values = values + hidden @ self.weight("down", 2 * width, width)
        valid = tf.cast(mask, tf.float32)[..., None]
        return self.head(tf.reduce_sum(values * valid, 1) / tf.reduce_sum(valid, 1))

    def series(self, values: Any) -> Any:
        values = tf.nn.conv1d(values, self.weight("conv", 5, 4, 12 * self.scale), 1, "SAME")
        return self.head(tf.reduce_mean(tf.nn.elu(self.batch_norm(values, "bn")), axis=1))

    def __call__(self, *inputs: Any) -> Any:
        return self.body(*inputs)

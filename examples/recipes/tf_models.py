"""Keras models by name for tf.data pipelines: ResNet-18/34/50, MobileNetV1, and small ones.

References: ResNet: He et al. 2016, with the stride of a bottleneck in its 3×3 convolution;
MobileNetV1: Howard et al. 2017 (Keras' own).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from .cifar_networks import Described, describe

Shape = tuple[int, int, int]


def conv_norm(x: Any, width: int, kernel: int, stride: int = 1, relu: bool = True) -> Any:
    """Return convolution (padded by half its kernel), batch norm and, unless told, ReLU."""
    if stride > 1 and kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2)(x)
    padding = "same" if stride == 1 else "valid"
    x = layers.Conv2D(
        width, kernel, stride, padding, use_bias=False, kernel_initializer="he_normal"
    )(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return layers.ReLU()(x) if relu else x


def basic(x: Any, width: int, stride: int) -> Any:
    """Two 3×3 convolutions added to the input."""
    branch = conv_norm(conv_norm(x, width, 3, stride), width, 3, relu=False)
    return _join(x, branch, width, stride)


def bottleneck(x: Any, width: int, stride: int) -> Any:
    """1×1, 3×3 and 1×1 to four times the width, added to the input."""
    branch = conv_norm(conv_norm(x, width, 1), width, 3, stride)
    return _join(x, conv_norm(branch, 4 * width, 1, relu=False), 4 * width, stride)


def _join(x: Any, branch: Any, width: int, stride: int) -> Any:
    if stride > 1 or x.shape[-1] != width:
        x = conv_norm(x, width, 1, stride, relu=False)
    return layers.ReLU()(layers.Add()([x, branch]))


def resnet(
    shape: Shape, classes: int, *, block: Callable[..., Any], repeats: tuple[int, ...]
) -> keras.Model:
    """Return the ImageNet ResNet; images below 64 pixels are not reduced by its stem."""
    inputs = keras.Input(shape)
    if shape[0] < 64:
        x = conv_norm(inputs, 64, 3)
    else:
        x = conv_norm(inputs, 64, 7, 2)
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for stage, count in enumerate(repeats):
        for number in range(count):
            x = block(x, 64 << stage, 2 if number == 0 and stage > 0 else 1)
    return keras.Model(inputs, _head(x, classes))


def mobilenet_v1(shape: Shape, classes: int) -> keras.Model:
    """Return MobileNetV1 at full width, without dropout."""
    inputs = keras.Input(shape)
    body = keras.applications.MobileNet(
        input_tensor=inputs, include_top=False, weights=None, dropout=0.0
    )
    return keras.Model(inputs, _head(body.output, classes))


def convnet(shape: Shape, classes: int, *, width: int) -> keras.Model:
    """Return three convolutions of width, 2·width, 4·width with batch norm and mean pooling."""
    inputs = keras.Input(shape)
    x = conv_norm(inputs, width, 3)
    for factor in (2, 4):
        x = conv_norm(layers.MaxPooling2D()(x), factor * width, 3)
    return keras.Model(inputs, _head(x, classes))


def mlp(shape: Shape, classes: int, *, widths: list[int]) -> keras.Model:
    """Return a multilayer perceptron on the flattened image."""
    inputs = keras.Input(shape)
    x = layers.Flatten()(inputs)
    for width in widths:
        x = layers.Dense(width, "relu")(x)
    return keras.Model(inputs, layers.Dense(classes, dtype="float32")(x))


def _head(x: Any, classes: int) -> Any:
    return layers.Dense(classes, dtype="float32")(layers.GlobalAveragePooling2D()(x))


FAMILIES: dict[str, Callable[..., keras.Model]] = {
    "mlp": mlp,
    "convnet": convnet,
    "resnet": resnet,
    "mobilenet_v1": mobilenet_v1,
}

MODELS: dict[str, Described] = {
    "resnet18": ("resnet", {"block": basic, "repeats": (2, 2, 2, 2)}),
    "resnet34": ("resnet", {"block": basic, "repeats": (3, 4, 6, 3)}),
    "resnet50": ("resnet", {"block": bottleneck, "repeats": (3, 4, 6, 3)}),
    "mobilenet_v1": ("mobilenet_v1", {}),
}


def build(name: str, shape: Shape, classes: int, seed: int = 0) -> keras.Model:
    """Return the model called ``name``, with logits in float32.

    Args:
        name: ``mlp-64`` (hidden widths), ``conv-32`` (first width), or one of `MODELS`.
        shape: height, width, channels of the images.
        classes: length of the logits.
        seed: of the initial values.

    Raises:
        ValueError: an unknown name.
    """
    family, settings = describe(name, MODELS)
    keras.utils.set_random_seed(seed)
    return FAMILIES[family](shape, classes, **settings)


def count_parameters(model: keras.Model) -> int:
    """Return the number of trained values."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)

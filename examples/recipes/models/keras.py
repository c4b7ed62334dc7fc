"""Keras models by name, for Keras on any backend and for TensorFlow.

``build(name, image_shape, classes)`` makes one; every model takes (batch, height, width, channels)
and returns logits in float32. They are functional models of Keras' own layers, so a saved one is
loaded without this file. Small ones for laptops are here, and every one of ``keras.applications``;
`keras_networks` has those of the literature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from ..files import DataError
from . import Shape, describe


def conv(
    x: Any, width: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False
) -> Any:
    """Return a convolution, padded by half its kernel on every side."""
    padding = "same"
    if stride > 1 and kernel > 1:  # "same" would pad the lower and the right side alone
        x, padding = layers.ZeroPadding2D(kernel // 2)(x), "valid"
    if groups == x.shape[-1] == width:
        return layers.DepthwiseConv2D(
            kernel, stride, padding, use_bias=bias, depthwise_initializer="he_normal"
        )(x)
    return layers.Conv2D(
        width,
        kernel,
        stride,
        padding,
        groups=groups,
        use_bias=bias,
        kernel_initializer="he_normal",
    )(x)


def norm(x: Any, relu: bool = True) -> Any:
    """Return batch norm, with PyTorch's momentum and epsilon, and ReLU unless told otherwise."""
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return layers.ReLU()(x) if relu else x


def conv_norm(
    x: Any, width: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> Any:
    """Return convolution, batch norm and, unless told otherwise, ReLU."""
    return norm(conv(x, width, kernel, stride, groups), relu)


def mlp(x: Any, *, widths: Sequence[int]) -> Any:
    """Return a multilayer perceptron on the flattened image."""
    x = layers.Flatten()(x)
    for width in widths:
        x = layers.Dense(width, "relu")(x)
    return x


def convnet(x: Any, *, width: int) -> Any:
    """Return three convolutions of width, 2·width, 4·width with batch norm."""
    for number in range(3):
        x = conv_norm(x, width << number, 3)
        x = layers.MaxPooling2D()(x) if number < 2 else x
    return x


def build(name: str, shape: Shape, classes: int, seed: int | None = None) -> keras.Model:
    """Return the model called ``name``, with logits in float32.

    Args:
        name: as `models.describe` takes it (``mlp-64``, ``conv-32``, ``resnet8x4`` …), one of
            `keras_networks.IMAGENET_MODELS`, ``keras.applications:NAME`` with random weights and
            without its softmax, or ``module:function``: what that function returns.
        shape: height, width, channels of the images.
        classes: length of the logits.
        seed: of the initial values; None: whatever Keras draws next.

    Raises:
        DataError: an unknown name.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)
    if name.startswith("keras.applications:"):
        return _application(name.partition(":")[2], shape, classes)
    if ":" in name:
        from .own import call_own

        own: keras.Model = call_own(name, shape, classes, seed=seed or 0)
        return own
    images, small = keras.Input(shape), {"mlp": mlp, "convnet": convnet}
    if name.startswith(("mlp-", "conv-")):
        family, settings = describe(name)
        x = small[family](images, **settings)
    else:
        from . import keras_networks

        family, settings = describe(name, keras_networks.IMAGENET_MODELS)
        x = keras_networks.network(images, family, **settings)
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes, dtype="float32")(x), name=name)


def _application(name: str, shape: Shape, classes: int) -> keras.Model:
    settings = {"weights": None, "input_shape": shape, "classes": classes}
    try:
        make = getattr(keras.applications, name)
        model: keras.Model = make(classifier_activation=None, **settings)
    except (AttributeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"keras.applications:{name} cannot be built: {reason}") from error
    return model


def count_parameters(model: keras.Model) -> int:
    """Return the number of trained values, frozen or not: all but the statistics of the norms."""
    statistics = ("moving_mean", "moving_variance")
    return sum(math.prod(w.shape) for w in model.weights if w.name not in statistics)


def list_models(shape: Shape, classes: int) -> str:
    """Return the names and sizes of the models for such images and classes."""
    from .tables import list_models as listed

    names = None
    if shape[0] > 64:
        from .keras_networks import IMAGENET_MODELS

        names = list(IMAGENET_MODELS)
    size = lambda name: count_parameters(build(name, shape, classes))  # noqa: E731
    return listed(size, "keras.applications:NAME, module:function and", names)

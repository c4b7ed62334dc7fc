"""Keras models by name, of the same sizes as the PyTorch recipe's.

``build(name, image_shape, classes)`` makes one; every model takes (batch, height, width, channels)
and returns logits. They are functional models of Keras' own layers, so a saved one is loaded
without this file.

References: ResNet: He et al. 2016; wide ResNet: Zagoruyko & Komodakis 2016; VGG: Simonyan &
Zisserman 2015; the variants for 32×32 images are those of CRD (Tian et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
from keras import layers

Shape = tuple[int, int, int]


def conv(x: Any, width: int, kernel: int, stride: int = 1, bias: bool = False) -> Any:
    """Return a "same" convolution."""
    return layers.Conv2D(
        width, kernel, stride, "same", use_bias=bias, kernel_initializer="he_normal"
    )(x)


def norm(x: Any, relu: bool = True) -> Any:
    """Return batch norm, with PyTorch's momentum and epsilon, and ReLU unless told otherwise."""
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return layers.ReLU()(x) if relu else x


def conv_norm(x: Any, width: int, kernel: int, stride: int = 1, relu: bool = True) -> Any:
    """Return convolution, batch norm and, unless told otherwise, ReLU."""
    return norm(conv(x, width, kernel, stride), relu)


def residual(x: Any, width: int, stride: int) -> Any:
    """Return relu(branch + input), a 1×1 convolution of the input where shapes differ."""
    branch = conv_norm(conv_norm(x, width, 3, stride), width, 3, relu=False)
    if stride != 1 or x.shape[-1] != width:
        x = conv_norm(x, width, 1, stride, relu=False)
    return layers.ReLU()(layers.Add()([branch, x]))


def wide_residual(x: Any, width: int, stride: int) -> Any:
    """Return branch + input, norm and ReLU before each convolution."""
    active = norm(x)
    branch = conv(conv_norm(active, width, 3, stride), width, 3)
    kept = x if x.shape[-1] == width else conv(active, width, 1, stride)
    return layers.Add()([branch, kept])


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


def resnet(x: Any, *, depth: int, widths: Sequence[int]) -> Any:
    """Return the ResNet of 6n + 2 layers; ``widths`` are the stem's and the three stages'."""
    return _stages(conv_norm(x, widths[0], 3), residual, widths, (depth - 2) // 6)


def wide_resnet(x: Any, *, depth: int, factor: int) -> Any:
    """Return the wide ResNet of 6n + 4 layers, WRN-depth-factor."""
    widths = [16, 16 * factor, 32 * factor, 64 * factor]
    return norm(_stages(conv(x, 16, 3), wide_residual, widths, (depth - 4) // 6))


def vgg(x: Any, *, repeats: int) -> Any:
    """Return VGG with batch norm: ``repeats`` convolutions in each of five stages."""
    for stage, width in enumerate((64, 128, 256, 512, 512)):
        for _ in range(repeats):
            x = norm(conv(x, width, 3, bias=True))
        x = layers.MaxPooling2D()(x) if stage < 3 else x
    return x


def _stages(x: Any, block: Any, widths: Sequence[int], depth: int) -> Any:
    """Return three stages of ``depth`` blocks; the second and third halve the image."""
    for stage in range(3):
        for number in range(depth):
            x = block(x, widths[stage + 1], 2 if number == 0 and stage > 0 else 1)
    return x


_SLIM, _WIDE = (16, 16, 32, 64), (32, 64, 128, 256)

#: name → function of the image
CIFAR_MODELS: dict[str, Callable[[Any], Any]] = {
    **{f"resnet{depth}": partial(resnet, depth=depth, widths=_SLIM) for depth in (20, 32, 56, 110)},
    **{f"resnet{depth}x4": partial(resnet, depth=depth, widths=_WIDE) for depth in (8, 32)},
    **{
        f"wrn_{depth}_{factor}": partial(wide_resnet, depth=depth, factor=factor)
        for depth, factor in ((16, 2), (40, 1), (40, 2))
    },
    "vgg8": partial(vgg, repeats=1),
    "vgg13": partial(vgg, repeats=2),
}


def build(name: str, shape: Shape, classes: int) -> keras.Model:
    """Return the model called ``name``.

    Args:
        name: ``mlp-64`` or ``mlp-256-128`` (hidden widths), ``conv-32`` (first width), or one of
            `CIFAR_MODELS`.
        shape: height, width, channels of the images.
        classes: length of the logits.

    Raises:
        ValueError: an unknown name.
    """
    family, *numbers = name.split("-")
    body: Callable[[Any], Any] | None = CIFAR_MODELS.get(name)
    if numbers and all(number.isdigit() and int(number) > 0 for number in numbers):
        if family == "mlp":
            body = partial(mlp, widths=[int(number) for number in numbers])
        elif family == "conv" and len(numbers) == 1:
            body = partial(convnet, width=int(numbers[0]))
    if body is None:
        raise ValueError(
            f"build: unknown model {name!r}; known: mlp-WIDTH[-WIDTH…], conv-WIDTH, "
            f"{', '.join(CIFAR_MODELS)}"
        )
    images = keras.Input(shape)
    x = body(images)
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes)(x), name=name)


def count_parameters(model: keras.Model) -> int:
    """Return the number of trained values, frozen or not: all but the statistics of the norms."""
    statistics = ("moving_mean", "moving_variance")
    return sum(math.prod(w.shape) for w in model.weights if w.name not in statistics)

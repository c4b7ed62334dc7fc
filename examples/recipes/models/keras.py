"""Keras models by name, for Keras on any backend and for TensorFlow.

``build(name, image_shape, classes)`` makes one; every model takes (batch, height, width, channels)
and returns logits in float32. They are functional models of Keras' own layers, so a saved one is
loaded without this file. Those for 32×32 images have the sizes of `torch`'s, and their tables and
references are in `tables`. Those for ImageNet are ResNet-18, 34 and 50 (He et al. 2016, with the
stride of a bottleneck in its 3×3 convolution), MobileNetV1 at full width without dropout (Howard
et al. 2017; Keras' own), and every one of ``keras.applications``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers, ops

from ..files import DataError
from . import tables
from .tables import CIFAR_MODELS as CIFAR_MODELS

Shape = tuple[int, int, int]


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


def inverted_residual(x: Any, width: int, stride: int, expansion: int) -> Any:
    """Expand, filter by channel, project; added to the input where shapes allow."""
    hidden = x.shape[-1] * expansion
    branch = conv_norm(conv_norm(x, hidden, 1), hidden, 3, stride, groups=hidden)
    branch = conv_norm(branch, width, 1, relu=False)
    return layers.Add()([x, branch]) if stride == 1 and x.shape[-1] == width else branch


def shuffle(x: Any, groups: int) -> Any:
    """Interleave the channels of ``groups`` groups."""
    height, width, channels = x.shape[1:]
    x = layers.Reshape((height, width, groups, channels // groups))(x)
    return layers.Reshape((height, width, channels))(layers.Permute((1, 2, 4, 3))(x))


def shuffle_unit(x: Any, width: int, stride: int, groups: int) -> Any:
    """ShuffleNet's bottleneck of grouped 1×1 convolutions; joins the pooled input at stride 2."""
    inputs = x.shape[-1]
    first = 1 if inputs == 24 else groups  # the stem's 24 channels are too few to group
    outputs = width - inputs if stride == 2 else width
    middle = outputs // 4
    branch = shuffle(conv_norm(x, middle, 1, groups=first), first)
    branch = conv_norm(branch, middle, 3, stride, groups=middle, relu=False)
    branch = conv_norm(branch, outputs, 1, groups=groups, relu=False)
    if stride == 1:
        return layers.ReLU()(layers.Add()([branch, x]))
    pooled = layers.AveragePooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    return layers.ReLU()(layers.Concatenate()([branch, pooled]))


def shuffle_unit_v2(x: Any, width: int, stride: int) -> Any:
    """ShuffleNetV2's unit: half the channels pass untouched; at stride 2 both halves convolve."""
    half = width // 2
    kept, entering = (x, x) if stride == 2 else (x[..., :half], x[..., half:])
    branch = conv_norm(conv_norm(entering, half, 1), half, 3, stride, groups=half, relu=False)
    branch = conv_norm(branch, half, 1)
    if stride == 2:
        side = conv_norm(kept, x.shape[-1], 3, 2, groups=x.shape[-1], relu=False)
        kept = conv_norm(side, half, 1)
    return shuffle(layers.Concatenate()([kept, branch]), 2)


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
    x = conv_norm(x, widths[0], 3)
    for _, *block in tables.residual_blocks(widths, (depth - 2) // 6):
        x = residual(x, *block)
    return x


def wide_resnet(x: Any, *, depth: int, factor: int) -> Any:
    """Return the wide ResNet of 6n + 4 layers, WRN-depth-factor."""
    widths = tables.wide_widths(factor)
    x = conv(x, widths[0], 3)
    for _, *block in tables.residual_blocks(widths, (depth - 4) // 6):
        x = wide_residual(x, *block)
    return norm(x)


def vgg(x: Any, *, repeats: int) -> Any:
    """Return VGG with batch norm: ``repeats`` convolutions in each of five stages."""
    for stage, width in enumerate(tables.VGG_WIDTHS):
        for _ in range(repeats):
            x = norm(conv(x, width, 3, bias=True))
        x = layers.MaxPooling2D()(x) if stage < 3 else x
    return x


def mobilenet_v2(x: Any, *, width: float) -> Any:
    """Return MobileNetV2 at ``width`` times its width."""
    blocks = list(tables.inverted_residuals(width))
    x = conv_norm(x, blocks[0][0], 3, 2)
    for _, *block in blocks:
        x = inverted_residual(x, *block)
    return conv_norm(x, 1280, 1)


def shufflenet_v1(x: Any) -> Any:
    """Return ShuffleNet with 3 groups."""
    x = conv_norm(x, 24, 1)
    for _, *unit in tables.shuffle_units(tables.SHUFFLE_WIDTHS):
        x = shuffle_unit(x, *unit, tables.SHUFFLE_GROUPS)
    return x


def shufflenet_v2(x: Any) -> Any:
    """Return ShuffleNetV2 at width 1."""
    x = conv_norm(x, 24, 1)
    for _, *unit in tables.shuffle_units(tables.SHUFFLE_V2_WIDTHS):
        x = shuffle_unit_v2(x, *unit)
    return conv_norm(x, 1024, 1)


def bottleneck(x: Any, width: int, stride: int) -> Any:
    """1×1, 3×3 and 1×1 to four times the width, added to the input."""
    branch = conv_norm(conv_norm(x, width, 1), width, 3, stride)
    branch = conv_norm(branch, 4 * width, 1, relu=False)
    if stride != 1 or x.shape[-1] != 4 * width:
        x = conv_norm(x, 4 * width, 1, stride, relu=False)
    return layers.ReLU()(layers.Add()([branch, x]))


def imagenet_resnet(x: Any, *, block: Callable[..., Any], repeats: Sequence[int]) -> Any:
    """Return the ImageNet ResNet; images below 64 pixels are not reduced by its stem."""
    if x.shape[1] < 64:
        x = conv_norm(x, 64, 3)
    else:
        x = conv_norm(x, 64, 7, 2)
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for stage, count in enumerate(repeats):
        for number in range(count):
            x = block(x, 64 << stage, 2 if number == 0 and stage > 0 else 1)
    return x


def mobilenet_v1(x: Any) -> Any:
    """Return MobileNetV1 at full width, without dropout."""
    body = keras.applications.MobileNet(
        input_tensor=x, include_top=False, weights=None, dropout=0.0
    )
    return body.output


IMAGENET_MODELS: dict[str, tables.Described] = {
    "resnet18": ("imagenet_resnet", {"block": residual, "repeats": (2, 2, 2, 2)}),
    "resnet34": ("imagenet_resnet", {"block": residual, "repeats": (3, 4, 6, 3)}),
    "resnet50": ("imagenet_resnet", {"block": bottleneck, "repeats": (3, 4, 6, 3)}),
    "mobilenet_v1": ("mobilenet_v1", {}),
}

#: family → function of (image, settings)
FAMILIES: dict[str, Callable[..., Any]] = {
    "mlp": mlp,
    "convnet": convnet,
    "resnet": resnet,
    "wide_resnet": wide_resnet,
    "vgg": vgg,
    "mobilenet_v2": mobilenet_v2,
    "shufflenet_v1": shufflenet_v1,
    "shufflenet_v2": shufflenet_v2,
    "imagenet_resnet": imagenet_resnet,
    "mobilenet_v1": mobilenet_v1,
}


def build(name: str, shape: Shape, classes: int, seed: int | None = None) -> keras.Model:
    """Return the model called ``name``, with logits in float32.

    Args:
        name: as `tables.describe` takes it (``mlp-64``, ``conv-32``, ``resnet8x4`` …), one of
            `IMAGENET_MODELS`, ``keras.applications:NAME`` with random weights and without its
            softmax, or ``module:function``: what that function returns.
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
        own: keras.Model = tables.call_own(name, shape, classes, seed=seed or 0)
        return own
    family, settings = tables.describe(name, {**CIFAR_MODELS, **IMAGENET_MODELS})
    images = keras.Input(shape)
    x = FAMILIES[family](images, **settings)
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
    known = IMAGENET_MODELS if shape[0] > 64 else CIFAR_MODELS
    lines = ["mlp-WIDTH[-WIDTH…], conv-WIDTH, keras.applications:NAME, module:function and:"]
    for name in known:
        size = count_parameters(build(name, shape, classes))
        lines.append(f"  {name:14} {size:>10,} parameters")
    return "\n".join(lines)


class SGD(keras.optimizers.SGD):
    """SGD whose weight decay is part of the gradient, as in the published recipe.

    Keras' own ``weight_decay`` shrinks the weights beside the momentum: another, weaker rule.
    """

    def __init__(self, learning_rate: float, momentum: float, decay: float) -> None:
        super().__init__(learning_rate, momentum=momentum)
        self.decay = decay

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update the variables by gradient + decay · variable."""
        variables = trainable_variables or self._trainable_variables
        grads = [
            gradient + ops.cast(self.decay * ops.convert_to_tensor(variable), gradient.dtype)
            for gradient, variable in zip(grads, variables, strict=True)
        ]
        super().apply(grads, trainable_variables)

"""The Keras networks of the literature, as functions from an image to features.

Those for 32×32 images have the sizes of `torch_networks`, and their tables and references are in
`tables`. Those for ImageNet are ResNet-18, 34 and 50 (He et al. 2016, with the stride of a
bottleneck in its 3×3 convolution), and MobileNetV1 at full width without dropout (Howard et al.
2017; Keras' own).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from . import Described, tables
from .keras import conv, conv_norm, norm


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


IMAGENET_MODELS: dict[str, Described] = {
    "resnet18": ("imagenet_resnet", {"block": residual, "repeats": (2, 2, 2, 2)}),
    "resnet34": ("imagenet_resnet", {"block": residual, "repeats": (3, 4, 6, 3)}),
    "resnet50": ("imagenet_resnet", {"block": bottleneck, "repeats": (3, 4, 6, 3)}),
    "mobilenet_v1": ("mobilenet_v1", {}),
}

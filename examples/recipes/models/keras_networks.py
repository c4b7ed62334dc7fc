"""The Keras networks of the literature, as functions from an image to features.

Those for 32×32 images have the sizes of `torch_networks`, and their tables and references are in
`tables`. Those for ImageNet are ResNet-18, 34 and 50 (He et al. 2016, with the stride of a
bottleneck in its 3×3 convolution), and MobileNetV1 at full width without dropout (Howard et al.
2017; Keras' own).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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


LAYERS: dict[str, Callable[..., Any]] = {
    "conv": conv,
    "biased_conv": partial(conv, bias=True),
    "norm": lambda x: norm(x, relu=False),
    "relu": lambda x: layers.ReLU()(x),
    "conv_norm": conv_norm,
    "max_pool": lambda x: layers.MaxPooling2D()(x),
    "residual": residual,
    "wide_residual": wide_residual,
    "inverted_residual": inverted_residual,
    "shuffle_unit": shuffle_unit,
    "shuffle_unit_v2": shuffle_unit_v2,
}


def network(x: Any, family: str, **settings: Any) -> Any:
    """Return the features of images by a family of `tables`, or of ImageNet."""
    own = {"imagenet_resnet": imagenet_resnet, "mobilenet_v1": mobilenet_v1}
    if family in own:
        return own[family](x, **settings)
    *found, _ = getattr(tables, family)(x.shape[-1], **settings)
    for kind, *sizes in found:
        x = LAYERS[kind](x, *sizes[1:])  # Keras knows what enters
    return x


IMAGENET_MODELS: dict[str, Described] = {
    "resnet18": ("imagenet_resnet", {"block": residual, "repeats": (2, 2, 2, 2)}),
    "resnet34": ("imagenet_resnet", {"block": residual, "repeats": (3, 4, 6, 3)}),
    "resnet50": ("imagenet_resnet", {"block": bottleneck, "repeats": (3, 4, 6, 3)}),
    "mobilenet_v1": ("mobilenet_v1", {}),
}

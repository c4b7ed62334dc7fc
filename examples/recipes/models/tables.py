"""The networks of the CIFAR-100 distillation literature, for every framework.

`CIFAR_MODELS` gives each name its family and the settings. A family is a function below: it yields
the layers one after the other, each as its name and its sizes, the channels that enter and leave
first. What a layer does is in `torch_networks`, `jax_networks` and `keras_networks`.

References: ResNet: He et al. 2016; wide ResNet: Zagoruyko & Komodakis 2016; VGG: Simonyan &
Zisserman 2015; MobileNetV2: Sandler et al. 2018; ShuffleNet: Zhang et al. 2018; ShuffleNetV2:
Ma et al. 2018. The variants for 32×32 images (widths, strides, heads) are those that CRD (Tian et
al. 2020) introduced and the later papers kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import Described

_SLIM, _WIDE = (16, 16, 32, 64), (32, 64, 128, 256)

CIFAR_MODELS: dict[str, Described] = {
    **{
        f"resnet{depth}": ("resnet", {"depth": depth, "widths": _SLIM})
        for depth in (20, 32, 56, 110)
    },
    **{f"resnet{depth}x4": ("resnet", {"depth": depth, "widths": _WIDE}) for depth in (8, 32)},
    **{
        f"wrn_{depth}_{factor}": ("wide_resnet", {"depth": depth, "factor": factor})
        for depth, factor in ((16, 2), (40, 1), (40, 2))
    },
    "vgg8": ("vgg", {"repeats": 1}),
    "vgg13": ("vgg", {"repeats": 2}),
    "mobilenet_v2": ("mobilenet_v2", {"width": 0.5}),
    "shufflenet_v1": ("shufflenet_v1", {}),
    "shufflenet_v2": ("shufflenet_v2", {}),
}

Layer = tuple[Any, ...]
"""A name, then sizes: inputs, outputs, kernel, stride …"""


def resnet(channels: int, depth: int, widths: Sequence[int]) -> Iterator[Layer]:
    """Yield the ResNet of 6n + 2 layers; ``widths`` are the stem's and the three stages'."""
    yield "conv_norm", channels, widths[0], 3
    for block in _residual_blocks(widths, (depth - 2) // 6):
        yield "residual", *block
    yield "head", widths[3]


def wide_resnet(channels: int, depth: int, factor: int) -> Iterator[Layer]:
    """Yield the wide ResNet of 6n + 4 layers, WRN-depth-factor."""
    widths = (16, 16 * factor, 32 * factor, 64 * factor)
    yield "conv", channels, widths[0], 3
    for block in _residual_blocks(widths, (depth - 4) // 6):
        yield "wide_residual", *block
    yield "norm", widths[3]
    yield ("relu",)
    yield "head", widths[3]


def vgg(channels: int, repeats: int) -> Iterator[Layer]:
    """Yield VGG with batch norm: ``repeats`` convolutions in each of five stages."""
    for stage, width in enumerate((64, 128, 256, 512, 512)):
        for _ in range(repeats):
            yield "biased_conv", channels, width, 3
            yield "norm", width
            yield ("relu",)
            channels = width
        if stage < 3:
            yield ("max_pool",)
    yield "head", channels


def mobilenet_v2(channels: int, width: float) -> Iterator[Layer]:
    """Yield MobileNetV2 at ``width`` times its width, with strides for 32×32 images."""
    inputs = int(32 * width)
    yield "conv_norm", channels, inputs, 3, 2
    for expansion, outputs, repeats, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for number in range(repeats):
            first = stride if number == 0 else 1
            yield "inverted_residual", inputs, int(outputs * width), first, expansion
            inputs = int(outputs * width)
    yield "conv_norm", inputs, 1280, 1
    yield "head", 1280


def shufflenet_v1(channels: int) -> Iterator[Layer]:
    """Yield ShuffleNet with 3 groups."""
    yield "conv_norm", channels, 24, 1
    for unit in _shuffle_units(240, 480, 960):
        yield "shuffle_unit", *unit, 3
    yield "head", 960


def shufflenet_v2(channels: int) -> Iterator[Layer]:
    """Yield ShuffleNetV2 at width 1."""
    yield "conv_norm", channels, 24, 1
    for unit in _shuffle_units(116, 232, 464):
        yield "shuffle_unit_v2", *unit
    yield "conv_norm", 464, 1024, 1
    yield "head", 1024


def _residual_blocks(widths: Sequence[int], depth: int) -> Iterator[Layer]:
    """Yield (inputs, outputs, stride): three stages of ``depth``; two of them halve the image."""
    for stage in range(3):
        for number in range(depth):
            inputs = widths[stage] if number == 0 else widths[stage + 1]
            yield inputs, widths[stage + 1], 2 if number == 0 and stage > 0 else 1


def _shuffle_units(*widths: int) -> Iterator[Layer]:
    """Yield (inputs, outputs, stride): stages of 4, 8 and 4 units; each halves the image."""
    inputs = 24
    for outputs, units in zip(widths, (4, 8, 4), strict=True):
        for number in range(units):
            yield inputs, outputs, 2 if number == 0 else 1
            inputs = outputs


def list_models(size: Callable[[str], int], more: str, names: Sequence[str] | None = None) -> str:
    """Return the models' names and sizes, a line each: those of CIFAR, or the given ones."""
    lines = [f"  {name:14} {size(name):>10,} parameters" for name in names or CIFAR_MODELS]
    return "\n".join([f"mlp-WIDTH[-WIDTH…], conv-WIDTH, {more}:", *lines])

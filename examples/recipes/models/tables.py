"""The networks of the CIFAR-100 distillation literature as tables, for every framework.

`CIFAR_MODELS` gives each name its family and the family's settings; the functions below unroll a
family into its blocks. The layers are in `torch_networks`, `jax_networks` and `keras_networks`
beside this file, one function a family, and are named alike there.

References: ResNet: He et al. 2016; wide ResNet: Zagoruyko & Komodakis 2016; VGG: Simonyan &
Zisserman 2015; MobileNetV2: Sandler et al. 2018; ShuffleNet: Zhang et al. 2018; ShuffleNetV2:
Ma et al. 2018. The variants for 32×32 images (widths, strides, heads) are those that CRD (Tian et
al. 2020) introduced and the later papers kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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

VGG_WIDTHS = (64, 128, 256, 512, 512)  # the first three stages end in a pooling
SHUFFLE_WIDTHS, SHUFFLE_V2_WIDTHS = (240, 480, 960), (116, 232, 464)
SHUFFLE_GROUPS = 3


def residual_blocks(widths: Sequence[int], depth: int) -> Iterator[tuple[int, int, int]]:
    """Yield (inputs, outputs, stride): three stages of ``depth``; two of them halve the image."""
    for stage in range(3):
        for number in range(depth):
            inputs = widths[stage] if number == 0 else widths[stage + 1]
            yield inputs, widths[stage + 1], 2 if number == 0 and stage > 0 else 1


def wide_widths(factor: int) -> tuple[int, ...]:
    """Return the widths of a wide ResNet: the stem's and the three stages'."""
    return (16, 16 * factor, 32 * factor, 64 * factor)


def inverted_residuals(width: float) -> Iterator[tuple[int, int, int, int]]:
    """Yield (inputs, outputs, stride, expansion) of MobileNetV2, strides set for 32×32 images."""
    inputs = int(32 * width)
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
            yield inputs, int(outputs * width), stride if number == 0 else 1, expansion
            inputs = int(outputs * width)


def shuffle_units(widths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
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

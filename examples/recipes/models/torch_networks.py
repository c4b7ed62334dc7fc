"""The PyTorch networks of the literature, of the published sizes: a test counts the parameters.

They end in mean pooling, so that they take other image sizes too. Tables and references: `tables`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import tables
from .torch import conv, head


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Return convolution, batch norm and, unless told otherwise, ReLU."""
    layers: list[nn.Module] = [
        conv(inputs, outputs, kernel, stride, groups),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class Residual(nn.Module):
    """Two 3×3 convolutions added to the input (a 1×1 convolution of it where shapes differ)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs, 3, relu=False)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(branch + shortcut)."""
        return functional.relu(self.branch(x) + self.shortcut(x))


class WideResidual(nn.Module):
    """Pre-activation block: norm and ReLU come before each convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.branch = nn.Sequential(
            conv_norm(inputs, outputs, 3, stride), conv(outputs, outputs, 3)
        )
        self.shortcut = None if inputs == outputs else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return branch + input, or branch + convolution of the activated input."""
        active = self.enter(x)
        kept = x if self.shortcut is None else self.shortcut(active)
        result: Tensor = self.branch(active) + kept
        return result


class InvertedResidual(nn.Module):
    """Expand, filter by channel, project; added to the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.branch = nn.Sequential(
            conv_norm(inputs, hidden, 1),
            conv_norm(hidden, hidden, 3, stride, groups=hidden),
            conv_norm(hidden, outputs, 1, relu=False),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch, plus the input where shapes agree."""
        result: Tensor = self.branch(x)
        return x + result if self.adds else result


class Shuffle(nn.Module):
    """Interleave the channels of ``groups`` groups."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return the same channels in another order."""
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleUnit(nn.Module):
    """ShuffleNet's bottleneck of grouped 1×1 convolutions; joins the pooled input at stride 2."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        first = 1 if inputs == 24 else groups  # the stem's 24 channels are too few to group
        branch = outputs - inputs if stride == 2 else outputs
        middle = branch // 4
        self.branch = nn.Sequential(
            conv_norm(inputs, middle, 1, groups=first),
            Shuffle(first),
            conv_norm(middle, middle, 3, stride, groups=middle, relu=False),
            conv_norm(middle, branch, 1, groups=groups, relu=False),
        )
        self.pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        """Return relu of the sum, or of the two joined at stride 2."""
        result = self.branch(x)
        joined = result + x if self.pool is None else torch.cat([result, self.pool(x)], 1)
        return functional.relu(joined)


class ShuffleUnitV2(nn.Module):
    """ShuffleNetV2's unit: half the channels pass untouched; at stride 2 both halves convolve."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        entering = inputs if stride == 2 else half
        self.branch = nn.Sequential(
            conv_norm(entering, half, 1),
            conv_norm(half, half, 3, stride, groups=half, relu=False),
            conv_norm(half, half, 1),
        )
        self.side = None
        if stride == 2:
            self.side = nn.Sequential(
                conv_norm(inputs, inputs, 3, 2, groups=inputs, relu=False),
                conv_norm(inputs, half, 1),
            )
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the two halves, joined and shuffled."""
        if self.side is None:
            kept, entering = x.chunk(2, 1)
        else:
            kept, entering = self.side(x), x
        result: Tensor = self.shuffle(torch.cat([kept, self.branch(entering)], 1))
        return result


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "conv": conv,
    "biased_conv": partial(nn.Conv2d, padding=1),
    "norm": nn.BatchNorm2d,
    "relu": partial(nn.ReLU, inplace=True),
    "conv_norm": conv_norm,
    "max_pool": partial(nn.MaxPool2d, 2),
    "residual": Residual,
    "wide_residual": WideResidual,
    "inverted_residual": InvertedResidual,
    "shuffle_unit": ShuffleUnit,
    "shuffle_unit_v2": ShuffleUnitV2,
}


def network(family: str, channels: int, classes: int, **settings: Any) -> nn.Module:
    """Return a network of a family of `tables`."""
    *found, (_, features) = getattr(tables, family)(channels, **settings)
    layers = (LAYERS[kind](*sizes) for kind, *sizes in found)
    return nn.Sequential(*layers, head(features, classes))

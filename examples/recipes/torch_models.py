"""PyTorch models by name: small ones for laptops here, the published CIFAR ones in torch_cifar.

``build(name, image_shape, classes)`` makes one; every model takes (batch, channels, height, width).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .models.tables import describe
from .torch_cifar import FAMILIES

Shape = tuple[int, int, int]


def mlp(shape: Shape, classes: int, widths: Sequence[int]) -> nn.Module:
    """Return a multilayer perceptron on the flattened image."""
    height, width, channels = shape
    layers: list[nn.Module] = [nn.Flatten()]
    size = height * width * channels
    for hidden in widths:
        layers += [nn.Linear(size, hidden), nn.ReLU()]
        size = hidden
    return nn.Sequential(*layers, nn.Linear(size, classes))


def convnet(channels: int, classes: int, width: int) -> nn.Module:
    """Return three convolutions of width, 2·width, 4·width with batch norm and mean pooling."""
    layers: list[nn.Module] = []
    for number in range(3):
        out = width << number
        layers += [
            nn.Conv2d(channels, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        ]
        if number < 2:
            layers.append(nn.MaxPool2d(2))
        channels = out
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def build(name: str, shape: Shape, classes: int) -> nn.Module:
    """Return the model called ``name``.

    Args:
        name: as `models.tables.describe` takes it: ``mlp-64``, ``conv-32``, ``resnet8x4`` ….
        shape: height, width, channels of the images.
        classes: length of the logits.

    Raises:
        ValueError: an unknown name.
    """
    family, settings = describe(name)
    if family == "mlp":
        return mlp(shape, classes, **settings)
    make = convnet if family == "convnet" else FAMILIES[family]
    return make(shape[2], classes, **settings)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())

"""PyTorch models by name: small ones for laptops here, the published CIFAR ones in torch_cifar.

``build(name, image_shape, classes)`` makes one; every model takes (batch, channels, height, width).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

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


def convnet(shape: Shape, classes: int, width: int) -> nn.Module:
    """Return three convolutions of width, 2·width, 4·width with batch norm and mean pooling."""
    layers: list[nn.Module] = []
    channels = shape[2]
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
        name: ``mlp-64`` or ``mlp-256-128`` (hidden widths), ``conv-32`` (first width), or one of
            `torch_cifar.CIFAR_MODELS`.
        shape: height, width, channels of the images.
        classes: length of the logits.

    Raises:
        ValueError: an unknown name.
    """
    from .torch_cifar import CIFAR_MODELS

    family, *numbers = name.split("-")
    if all(number.isdigit() and int(number) > 0 for number in numbers):
        if family == "mlp":
            return mlp(shape, classes, [int(number) for number in numbers])
        if family == "conv" and len(numbers) == 1:
            return convnet(shape, classes, int(numbers[0]))
    if name in CIFAR_MODELS:
        make: Callable[[int, int], nn.Module] = CIFAR_MODELS[name]
        return make(shape[2], classes)
    raise ValueError(
        f"build: unknown model {name!r}; known: mlp-WIDTH[-WIDTH…], conv-WIDTH, "
        f"{', '.join(CIFAR_MODELS)}"
    )


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())

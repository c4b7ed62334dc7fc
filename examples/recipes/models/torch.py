"""PyTorch models by name.

``build(name, image_shape, classes)`` makes a model; every one takes (batch, channels, height,
width). Small ones for laptops are here; `torch_networks` has those of the literature.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..files import DataError
from . import Shape, describe


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a "same" convolution without bias."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def head(features: int, classes: int) -> nn.Sequential:
    """Return mean pooling over the image and the linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))


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
        layers += [conv(channels, out, 3), nn.BatchNorm2d(out), nn.ReLU()]
        if number < 2:
            layers.append(nn.MaxPool2d(2))
        channels = out
    return nn.Sequential(*layers, *head(channels, classes))


def build(name: str, shape: Shape, classes: int) -> nn.Module:
    """Return the model called ``name``.

    Args:
        name: as `models.describe` takes it: ``mlp-64``, ``conv-32``, ``resnet8x4`` …, or
            ``module:function``: what that function returns, as `own.call_own` calls it.
        shape: height, width, channels of the images.
        classes: length of the logits.

    Raises:
        DataError: an unknown name, or a function of yours that returns something else.
    """
    if ":" in name:
        from .own import call_own

        model = call_own(name, shape, classes)
        if not isinstance(model, nn.Module):
            raise DataError(f"{name} returned a {type(model).__name__}, not a nn.Module")
        return model
    family, settings = describe(name)
    if family == "mlp":
        return mlp(shape, classes, **settings)
    if family == "convnet":
        return convnet(shape[2], classes, **settings)
    from .torch_networks import network

    return network(family, shape[2], classes, **settings)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())


def list_models() -> str:
    """Return the models' names and sizes."""
    from .tables import list_models as listed

    size = lambda name: count_parameters(build(name, (32, 32, 3), 100))  # noqa: E731
    return listed(size, "module:function and, for 100 classes of colour images")

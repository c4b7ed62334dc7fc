"""Flax NNX models by name, of the same sizes as the PyTorch recipe's.

``build(name, image_shape, classes, seed)`` makes one; every model takes (batch, height, width,
channels). Batch norm is over the whole batch, wherever its rows lie.

References: ResNet: He et al. 2016; wide ResNet: Zagoruyko & Komodakis 2016; VGG: Simonyan &
Zisserman 2015; the variants for 32×32 images are those of CRD (Tian et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Layers:
    """Makes layers: where their initial values come from, and the dtype they compute in."""

    rngs: nnx.Rngs
    dtype: Any = jnp.float32

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nnx.Conv:
        """Return a "same" convolution without bias."""
        edge = (kernel // 2, kernel // 2)
        return nnx.Conv(
            inputs,
            outputs,
            (kernel, kernel),
            stride,
            padding=(edge, edge),
            use_bias=False,
            dtype=self.dtype,
            rngs=self.rngs,
        )

    def norm(self, width: int) -> nnx.BatchNorm:
        """Return batch norm with PyTorch's momentum and epsilon."""
        return nnx.BatchNorm(width, momentum=0.9, epsilon=1e-5, dtype=self.dtype, rngs=self.rngs)

    def linear(self, inputs: int, outputs: int) -> nnx.Linear:
        """Return an affine layer."""
        return nnx.Linear(inputs, outputs, dtype=self.dtype, rngs=self.rngs)

    def conv_norm(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True
    ) -> nnx.Sequential:
        """Return convolution, batch norm and, unless told otherwise, ReLU."""
        layers = [self.conv(inputs, outputs, kernel, stride), self.norm(outputs)]
        return nnx.Sequential(*layers, *([nnx.relu] if relu else []))

    def head(self, features: int, classes: int) -> list[Any]:
        """Return mean pooling over the image and the linear layer."""
        return [_mean, self.linear(features, classes)]


class Residual(nnx.Module):
    """Two 3×3 convolutions added to the input (a 1×1 convolution of it where shapes differ)."""

    def __init__(self, make: Layers, inputs: int, outputs: int, stride: int) -> None:
        self.branch = nnx.Sequential(
            make.conv_norm(inputs, outputs, 3, stride),
            make.conv_norm(outputs, outputs, 3, relu=False),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else make.conv_norm(inputs, outputs, 1, stride, relu=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return relu(branch + shortcut)."""
        kept = x if self.shortcut is None else self.shortcut(x)
        return nnx.relu(self.branch(x) + kept)


class WideResidual(nnx.Module):
    """Pre-activation block: norm and ReLU come before each convolution."""

    def __init__(self, make: Layers, inputs: int, outputs: int, stride: int) -> None:
        self.enter = nnx.Sequential(make.norm(inputs), nnx.relu)
        self.branch = nnx.Sequential(
            make.conv_norm(inputs, outputs, 3, stride), make.conv(outputs, outputs, 3)
        )
        same = inputs == outputs
        self.shortcut = None if same else make.conv(inputs, outputs, 1, stride)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return branch + input, or branch + convolution of the activated input."""
        active = self.enter(x)
        kept = x if self.shortcut is None else self.shortcut(active)
        return self.branch(active) + kept


def mlp(make: Layers, shape: Shape, classes: int, widths: Sequence[int]) -> nnx.Module:
    """Return a multilayer perceptron on the flattened image."""
    height, width, channels = shape
    size = height * width * channels
    layers: list[Any] = [_flatten]
    for hidden in widths:
        layers += [make.linear(size, hidden), nnx.relu]
        size = hidden
    return nnx.Sequential(*layers, make.linear(size, classes))


def convnet(make: Layers, channels: int, classes: int, *, width: int) -> nnx.Module:
    """Return three convolutions of width, 2·width, 4·width with batch norm and mean pooling."""
    layers: list[Any] = []
    for number in range(3):
        layers.append(make.conv_norm(channels, width << number, 3))
        layers += [_max_pool] if number < 2 else []
        channels = width << number
    return nnx.Sequential(*layers, *make.head(channels, classes))


def resnet(
    make: Layers, channels: int, classes: int, *, depth: int, widths: Sequence[int]
) -> nnx.Module:
    """Return the ResNet of 6n + 2 layers; ``widths`` are the stem's and the three stages'."""
    return nnx.Sequential(
        make.conv_norm(channels, widths[0], 3),
        *_stages(make, Residual, widths, (depth - 2) // 6),
        *make.head(widths[3], classes),
    )


def wide_resnet(
    make: Layers, channels: int, classes: int, *, depth: int, factor: int
) -> nnx.Module:
    """Return the wide ResNet of 6n + 4 layers, WRN-depth-factor."""
    widths = [16, 16 * factor, 32 * factor, 64 * factor]
    return nnx.Sequential(
        make.conv(channels, 16, 3),
        *_stages(make, WideResidual, widths, (depth - 4) // 6),
        make.norm(widths[3]),
        nnx.relu,
        *make.head(widths[3], classes),
    )


def vgg(make: Layers, channels: int, classes: int, *, repeats: int) -> nnx.Module:
    """Return VGG with batch norm: ``repeats`` convolutions in each of five stages."""
    layers: list[Any] = []
    for stage, width in enumerate((64, 128, 256, 512, 512)):
        for _ in range(repeats):
            edge = (1, 1)
            layers += [
                nnx.Conv(
                    channels, width, (3, 3), padding=(edge, edge), dtype=make.dtype, rngs=make.rngs
                ),
                make.norm(width),
                nnx.relu,
            ]
            channels = width
        layers += [_max_pool] if stage < 3 else []
    return nnx.Sequential(*layers, *make.head(512, classes))


def _stages(make: Layers, block: Any, widths: Sequence[int], depth: int) -> list[nnx.Module]:
    """Return three stages of ``depth`` blocks; the second and third halve the image."""
    layers = []
    for stage in range(3):
        for number in range(depth):
            inputs = widths[stage] if number == 0 else widths[stage + 1]
            stride = 2 if number == 0 and stage > 0 else 1
            layers.append(block(make, inputs, widths[stage + 1], stride))
    return layers


def _flatten(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def _mean(x: jax.Array) -> jax.Array:
    return x.mean((1, 2))


def _max_pool(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


_SLIM, _WIDE = (16, 16, 32, 64), (32, 64, 128, 256)

#: name → function of (layers, channels, classes)
CIFAR_MODELS: dict[str, Callable[..., nnx.Module]] = {
    **{f"resnet{depth}": partial(resnet, depth=depth, widths=_SLIM) for depth in (20, 32, 56, 110)},
    **{f"resnet{depth}x4": partial(resnet, depth=depth, widths=_WIDE) for depth in (8, 32)},
    **{
        f"wrn_{depth}_{factor}": partial(wide_resnet, depth=depth, factor=factor)
        for depth, factor in ((16, 2), (40, 1), (40, 2))
    },
    "vgg8": partial(vgg, repeats=1),
    "vgg13": partial(vgg, repeats=2),
}


def build(
    name: str, shape: Shape, classes: int, seed: int = 0, dtype: Any = jnp.float32
) -> nnx.Module:
    """Return the model called ``name``.

    Args:
        name: ``mlp-64`` or ``mlp-256-128`` (hidden widths), ``conv-32`` (first width), or one of
            `CIFAR_MODELS`.
        shape: height, width, channels of the images.
        classes: length of the logits.
        seed: of the initial values.
        dtype: what the layers compute in; the parameters are float32.

    Raises:
        ValueError: an unknown name.
    """
    make = Layers(nnx.Rngs(seed), dtype)
    family, *numbers = name.split("-")
    if all(number.isdigit() and int(number) > 0 for number in numbers):
        if family == "mlp":
            return mlp(make, shape, classes, [int(number) for number in numbers])
        if family == "conv" and len(numbers) == 1:
            return convnet(make, shape[2], classes, width=int(numbers[0]))
    if name in CIFAR_MODELS:
        return CIFAR_MODELS[name](make, shape[2], classes)
    raise ValueError(
        f"build: unknown model {name!r}; known: mlp-WIDTH[-WIDTH…], conv-WIDTH, "
        f"{', '.join(CIFAR_MODELS)}"
    )


def count_parameters(model: nnx.Module) -> int:
    """Return the number of trained values."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

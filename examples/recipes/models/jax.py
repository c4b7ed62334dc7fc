"""Flax NNX models by name: small ones for laptops; `jax_networks` has those of the literature.

``build(name, image_shape, classes, seed)`` makes one; every model takes (batch, height, width,
channels). Batch norm is over the whole batch, wherever its rows lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from . import Shape, describe


@dataclass(frozen=True)
class Layers:
    """Makes layers: where their initial values come from, and the dtype they compute in."""

    rngs: nnx.Rngs
    dtype: Any = jnp.float32

    def conv(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1,
        bias: bool = False,
    ) -> nnx.Conv:  # fmt: skip
        """Return a "same" convolution."""
        edge = (kernel // 2, kernel // 2)
        return nnx.Conv(
            inputs, outputs, (kernel, kernel), stride, padding=(edge, edge),
            feature_group_count=groups, use_bias=bias, dtype=self.dtype, rngs=self.rngs,
        )  # fmt: skip

    def norm(self, width: int) -> nnx.BatchNorm:
        """Return batch norm with PyTorch's momentum and epsilon."""
        return nnx.BatchNorm(width, momentum=0.9, epsilon=1e-5, dtype=self.dtype, rngs=self.rngs)

    def linear(self, inputs: int, outputs: int) -> nnx.Linear:
        """Return an affine layer."""
        return nnx.Linear(inputs, outputs, dtype=self.dtype, rngs=self.rngs)

    def conv_norm(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> nnx.Sequential:
        """Return convolution, batch norm and, unless told otherwise, ReLU."""
        layers = [self.conv(inputs, outputs, kernel, stride, groups), self.norm(outputs)]
        return nnx.Sequential(*layers, *([nnx.relu] if relu else []))

    def head(self, features: int, classes: int) -> list[Any]:
        """Return mean pooling over the image and the linear layer."""
        return [_mean, self.linear(features, classes)]


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
        layers += [make.conv_norm(channels, width << number, 3), max_pool]
        channels = width << number
    layers.pop()
    return nnx.Sequential(*layers, *make.head(channels, classes))


def _flatten(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def _mean(x: jax.Array) -> jax.Array:
    return x.mean((1, 2))


def max_pool(x: jax.Array) -> jax.Array:
    """Halve height and width."""
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


def build(
    name: str, shape: Shape, classes: int, seed: int = 0, dtype: Any = jnp.float32
) -> nnx.Module:
    """Return the model called ``name``.

    Args:
        name: as `models.describe` takes it: ``mlp-64``, ``conv-32``, ``resnet8x4`` …, or
            ``module:function``: what that function returns, a module from (batch, height, width,
            channels) to logits.
        shape: height, width, channels of the images.
        classes: length of the logits.
        seed: of the initial values.
        dtype: what the layers compute in; the parameters are float32.

    Raises:
        DataError: an unknown name.
    """
    if ":" in name:
        from .own import call_own

        own: nnx.Module = call_own(name, shape, classes, seed=seed)
        return own
    make = Layers(nnx.Rngs(seed), dtype)
    family, settings = describe(name)
    if family == "mlp":
        return mlp(make, shape, classes, **settings)
    if family == "convnet":
        return convnet(make, shape[2], classes, **settings)
    from .jax_networks import network

    return network(make, family, shape[2], classes, **settings)


def count_parameters(model: nnx.Module) -> int:
    """Return the number of trained values."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def list_models() -> str:
    """Return the models' names and sizes."""
    from .tables import list_models as listed

    def size(name: str) -> int:
        return count_parameters(nnx.eval_shape(lambda: build(name, (32, 32, 3), 100)))

    return listed(size, "module:function and, for 100 classes of colour images")

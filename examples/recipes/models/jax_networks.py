"""The Flax NNX networks of the literature, of the same sizes as those in `torch_networks`.

Batch norm is over the whole batch, wherever its rows lie. Tables and references: `tables`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from . import tables
from .jax import Layers, max_pool


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


class InvertedResidual(nnx.Module):
    """Expand, filter by channel, project; added to the input where shapes allow."""

    def __init__(
        self, make: Layers, inputs: int, outputs: int, stride: int, expansion: int
    ) -> None:
        hidden = inputs * expansion
        self.branch = nnx.Sequential(
            make.conv_norm(inputs, hidden, 1),
            make.conv_norm(hidden, hidden, 3, stride, groups=hidden),
            make.conv_norm(hidden, outputs, 1, relu=False),
        )
        self.adds = stride == 1 and inputs == outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the branch, plus the input where shapes agree."""
        return x + self.branch(x) if self.adds else self.branch(x)


@dataclass(frozen=True)
class Shuffle:
    """Interleaves the channels of ``groups`` groups. Equal ones are equal to a compiler's cache."""

    groups: int

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the same channels in another order."""
        apart = x.reshape(*x.shape[:-1], self.groups, -1)
        return apart.swapaxes(-1, -2).reshape(x.shape)


class ShuffleUnit(nnx.Module):
    """ShuffleNet's bottleneck of grouped 1×1 convolutions; joins the pooled input at stride 2."""

    def __init__(self, make: Layers, inputs: int, outputs: int, stride: int, groups: int) -> None:
        first = 1 if inputs == 24 else groups  # the stem's 24 channels are too few to group
        branch = outputs - inputs if stride == 2 else outputs
        middle = branch // 4
        self.branch = nnx.Sequential(
            make.conv_norm(inputs, middle, 1, groups=first),
            Shuffle(first),
            make.conv_norm(middle, middle, 3, stride, groups=middle, relu=False),
            make.conv_norm(middle, branch, 1, groups=groups, relu=False),
        )
        self.pools = stride == 2

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return relu of the sum, or of the two joined at stride 2."""
        result = self.branch(x)
        if not self.pools:
            return nnx.relu(result + x)
        edge = (1, 1)
        pooled = nnx.avg_pool(x, (3, 3), strides=(2, 2), padding=(edge, edge))
        return nnx.relu(jnp.concatenate([result, pooled], -1))


class ShuffleUnitV2(nnx.Module):
    """ShuffleNetV2's unit: half the channels pass untouched; at stride 2 both halves convolve."""

    def __init__(self, make: Layers, inputs: int, outputs: int, stride: int) -> None:
        half = outputs // 2
        self.branch = nnx.Sequential(
            make.conv_norm(inputs if stride == 2 else half, half, 1),
            make.conv_norm(half, half, 3, stride, groups=half, relu=False),
            make.conv_norm(half, half, 1),
        )
        side = None
        if stride == 2:
            reduce = make.conv_norm(inputs, inputs, 3, 2, groups=inputs, relu=False)
            side = nnx.Sequential(reduce, make.conv_norm(inputs, half, 1))
        self.side = side

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the two halves, joined and shuffled."""
        if self.side is None:
            kept, entering = jnp.split(x, 2, -1)
        else:
            kept, entering = self.side(x), x
        return Shuffle(2)(jnp.concatenate([kept, self.branch(entering)], -1))


LAYERS: dict[str, Any] = {
    "residual": Residual,
    "wide_residual": WideResidual,
    "inverted_residual": InvertedResidual,
    "shuffle_unit": ShuffleUnit,
    "shuffle_unit_v2": ShuffleUnitV2,
    "conv": Layers.conv,
    "biased_conv": partial(Layers.conv, bias=True),
    "conv_norm": Layers.conv_norm,
    "norm": Layers.norm,
    "relu": lambda make: nnx.relu,
    "max_pool": lambda make: max_pool,
}


def network(make: Layers, family: str, channels: int, classes: int, **settings: Any) -> nnx.Module:
    """Return a network of a family of `tables`."""
    *found, (_, features) = getattr(tables, family)(channels, **settings)
    layers = (LAYERS[kind](make, *sizes) for kind, *sizes in found)
    return nnx.Sequential(*layers, *make.head(features, classes))

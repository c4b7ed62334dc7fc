"""Flax NNX models by name, of the same sizes as those in `torch`.

``build(name, image_shape, classes, seed)`` makes one; every model takes (batch, height, width,
channels). Batch norm is over the whole batch, wherever its rows lie. The tables and the
references are in `tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..files import load_arrays, save_arrays
from . import tables
from .tables import CIFAR_MODELS as CIFAR_MODELS

Shape = tuple[int, int, int]


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
        layers += [make.conv_norm(channels, width << number, 3), _max_pool]
        channels = width << number
    layers.pop()
    return nnx.Sequential(*layers, *make.head(channels, classes))


def resnet(
    make: Layers, channels: int, classes: int, *, depth: int, widths: Sequence[int]
) -> nnx.Module:
    """Return the ResNet of 6n + 2 layers; ``widths`` are the stem's and the three stages'."""
    return nnx.Sequential(
        make.conv_norm(channels, widths[0], 3),
        *(Residual(make, *block) for block in tables.residual_blocks(widths, (depth - 2) // 6)),
        *make.head(widths[3], classes),
    )


def wide_resnet(
    make: Layers, channels: int, classes: int, *, depth: int, factor: int
) -> nnx.Module:
    """Return the wide ResNet of 6n + 4 layers, WRN-depth-factor."""
    widths = tables.wide_widths(factor)
    blocks = tables.residual_blocks(widths, (depth - 4) // 6)
    return nnx.Sequential(
        make.conv(channels, widths[0], 3),
        *(WideResidual(make, *block) for block in blocks),
        make.norm(widths[3]),
        nnx.relu,
        *make.head(widths[3], classes),
    )


def vgg(make: Layers, channels: int, classes: int, *, repeats: int) -> nnx.Module:
    """Return VGG with batch norm: ``repeats`` convolutions in each of five stages."""
    layers: list[Any] = []
    for stage, width in enumerate(tables.VGG_WIDTHS):
        for _ in range(repeats):
            layers += [make.conv(channels, width, 3, bias=True), make.norm(width), nnx.relu]
            channels = width
        layers += [_max_pool] if stage < 3 else []
    return nnx.Sequential(*layers, *make.head(512, classes))


def mobilenet_v2(make: Layers, channels: int, classes: int, *, width: float) -> nnx.Module:
    """Return MobileNetV2 at ``width`` times its width."""
    blocks = list(tables.inverted_residuals(width))
    return nnx.Sequential(
        make.conv_norm(channels, blocks[0][0], 3, 2),
        *(InvertedResidual(make, *block) for block in blocks),
        make.conv_norm(blocks[-1][1], 1280, 1),
        *make.head(1280, classes),
    )


def shufflenet_v1(make: Layers, channels: int, classes: int) -> nnx.Module:
    """Return ShuffleNet with 3 groups."""
    widths, groups = tables.SHUFFLE_WIDTHS, tables.SHUFFLE_GROUPS
    return nnx.Sequential(
        make.conv_norm(channels, 24, 1),
        *(ShuffleUnit(make, *unit, groups) for unit in tables.shuffle_units(widths)),
        *make.head(widths[-1], classes),
    )


def shufflenet_v2(make: Layers, channels: int, classes: int) -> nnx.Module:
    """Return ShuffleNetV2 at width 1."""
    widths = tables.SHUFFLE_V2_WIDTHS
    return nnx.Sequential(
        make.conv_norm(channels, 24, 1),
        *(ShuffleUnitV2(make, *unit) for unit in tables.shuffle_units(widths)),
        make.conv_norm(widths[-1], 1024, 1),
        *make.head(1024, classes),
    )


def _flatten(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def _mean(x: jax.Array) -> jax.Array:
    return x.mean((1, 2))


def _max_pool(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


#: family of `tables.CIFAR_MODELS` → function of (layers, channels, classes, settings)
FAMILIES: dict[str, Callable[..., nnx.Module]] = {
    "convnet": convnet,
    "resnet": resnet,
    "wide_resnet": wide_resnet,
    "vgg": vgg,
    "mobilenet_v2": mobilenet_v2,
    "shufflenet_v1": shufflenet_v1,
    "shufflenet_v2": shufflenet_v2,
}


def build(
    name: str, shape: Shape, classes: int, seed: int = 0, dtype: Any = jnp.float32
) -> nnx.Module:
    """Return the model called ``name``.

    Args:
        name: as `tables.describe` takes it: ``mlp-64``, ``conv-32``, ``resnet8x4`` …, or
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
        own: nnx.Module = tables.call_own(name, shape, classes, seed=seed)
        return own
    make = Layers(nnx.Rngs(seed), dtype)
    family, settings = tables.describe(name)
    if family == "mlp":
        return mlp(make, shape, classes, **settings)
    return FAMILIES[family](make, shape[2], classes, **settings)


def count_parameters(model: nnx.Module) -> int:
    """Return the number of trained values."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def list_models() -> str:
    """Return the models' names and sizes."""
    lines = ["mlp-WIDTH[-WIDTH…], conv-WIDTH, module:function and, for 100 classes in colour:"]
    for name in CIFAR_MODELS:
        shapes = nnx.eval_shape(lambda name=name: build(name, (32, 32, 3), 100))
        lines.append(f"  {name:14} {count_parameters(shapes):>10,} parameters")
    return "\n".join(lines)


# ---- models in files ----


def named(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a pytree by their place in it; keys of dropout as their numbers."""
    return {
        jax.tree_util.keystr(place): np.asarray(_data(leaf))
        for place, leaf in jax.tree.leaves_with_path(tree)
    }


def unnamed(arrays: dict[str, np.ndarray], like: Any) -> Any:
    """Return the pytree that `named` took apart."""

    def find(place: Any, leaf: Any) -> jax.Array:
        array = jnp.asarray(arrays[jax.tree_util.keystr(place)])
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(array)
        return array

    return jax.tree.map_with_path(find, like)


def _data(leaf: Any) -> Any:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def save_model(path: Path, params: Any, others: Any, notes: Mapping[str, Any]) -> None:
    """Write what a model holds (two pure dicts, as `flax.nnx.to_pure_dict` gives) and notes."""
    state = nnx.merge_state(nnx.State(params), nnx.State(others))
    save_arrays(path, named(nnx.to_pure_dict(state)), dict(notes))


def load_weights(model: nnx.Module, path: Path) -> dict[str, Any]:
    """Give a model the arrays of a ``last.npz`` or ``best.npz``; return the notes.

    Raises:
        DataError: no such file, a damaged one, or one of another model.
    """
    state = nnx.to_pure_dict(nnx.state(model))
    arrays, notes = load_arrays(path, named(state))
    nnx.update(model, unnamed(arrays, state))
    return notes


def load_student(path: Path) -> tuple[nnx.Module, Shape, dict[str, Any]]:
    """Return a model of ``jax_cifar100.py`` from its file, in float32, with its shape and notes.

    For ``python -m mcld_core export --load examples.recipes.models.jax:load_student``.

    Raises:
        DataError: no such file, a damaged one, or one of something else.
    """
    name, shape, classes = tables.read_notes(path, load_arrays(path)[1])
    model = build(name, shape, classes)
    notes = load_weights(model, path)
    model.eval()
    return model, shape, notes

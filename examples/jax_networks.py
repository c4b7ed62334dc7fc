"""Flax NNX networks by name, with their weights: CIFAR's ResNets and a small ViT; or yours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from data import Data, InputError
from flax import nnx

LEARNED = nnx.Not(nnx.RngState)


def ours(name: str, rngs: nnx.Rngs) -> Any:
    """Return what makes a network of ours from shape and classes; None for other names.

    ``resnet20``, ``resnet56`` …: 6n + 2 layers, 16 to 64 channels (He et al. 2016); ``resnet8x4``:
    a stem of 32, then four times as many; ``resnet8w8``: 8 to 32; ``vit-192``: of this width.
    """
    if found := re.fullmatch(r"vit-([1-9]\d*)", name):
        return lambda shape, classes: ViT(shape, classes, int(found[1]), rngs)
    found = re.fullmatch(r"resnet(\d+)(?:x([1-9])|w([1-9]\d*))?", name)
    if found and int(found[1]) in range(8, 1500, 6):
        depth, times, width = (int(x or 0) for x in found.groups())
        stem, blocks = width or (32 if times else 16), (depth - 2) // 6
        stages = [(16 * times or stem) * 2**i for i in range(3)]
        return lambda shape, classes: ResNet(shape[2], classes, blocks, stem, stages, rngs)
    return None


def build(name: str, option: str, data: Data, seed: int, weights: Path | None = None) -> FromPixels:
    """Return a network of ours, or ``module:function``'s, that takes pixels of 0 to 1."""
    rngs, classes = nnx.Rngs(seed), len(data.classes)
    if make := ours(name, rngs):
        model: Any = make(data.shape, classes)
    else:
        model = common.call(name, option, data.shape, classes, rngs=rngs)
    if not isinstance(model, nnx.Module):
        raise InputError(f"{option} {name} gave a {type(model).__name__}, not an nnx.Module")
    if weights is not None:
        load_weights(model, weights)
    return FromPixels(model, data.mean, data.std)


def named(model: nnx.Module) -> dict[str, np.ndarray]:
    """Return the arrays of a network by name, without the random numbers of its dropout."""
    found = jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(model, LEARNED)))
    return {jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in found}


def load_weights(model: nnx.Module, path: Path) -> None:
    """Load a file that holds what `named` gives."""
    from safetensors.numpy import load_file

    try:
        read, wanted = load_file(path), named(model)
    except Exception as error:  # safetensors' own
        raise InputError(f"{path} cannot be read: {error}") from error
    if {key: x.shape for key, x in read.items()} != {key: x.shape for key, x in wanted.items()}:
        raise InputError(f"{path} does not fit: {sorted(read.keys() ^ wanted.keys())[:3]} differ")
    state = nnx.state(model, LEARNED)
    find = lambda place, _: jnp.asarray(read[jax.tree_util.keystr(place)])  # noqa: E731
    pure = jax.tree.map_with_path(find, nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, pure)
    nnx.update(model, state)


class FromPixels(nnx.Module):
    """A network with its size and normalisation before it: from pixels of 0 to 1 to logits."""

    def __init__(self, model: nnx.Module, mean: Any, std: Any, size: int | None = None) -> None:
        self.model, self.size = model, size
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Return (batch, classes) float32 for (batch, height, width, channels)."""
        if self.size not in (None, pixels.shape[1]):
            shape = (pixels.shape[0], self.size, self.size, pixels.shape[3])
            pixels = jax.image.resize(pixels, shape, "bicubic")
        mean, std = (jnp.asarray(x, "float32")[None, None, None] for x in (self.mean, self.std))
        return self.model((pixels - mean) / std).astype("float32")


class Convolution(nnx.Module):
    """A "same" convolution and its batch norm, over the whole batch on whatever devices."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> None:
        edge, sizes = (size // 2, size // 2), {"kernel_size": (size, size), "strides": stride}
        initial = nnx.initializers.he_normal()
        self.convolution = nnx.Conv(
            inputs, outputs, **sizes, padding=(edge, edge), use_bias=False, kernel_init=initial,
            rngs=rngs,
        )  # fmt: skip
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the features."""
        return self.norm(self.convolution(x))


class Block(nnx.Module):
    """Two 3×3 convolutions added to the input (a 1×1 convolution of it where shapes differ)."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        self.first = Convolution(inputs, outputs, 3, stride, rngs)
        self.second = Convolution(outputs, outputs, 3, 1, rngs)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else Convolution(inputs, outputs, 1, stride, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return relu(branch + shortcut)."""
        kept = x if self.shortcut is None else self.shortcut(x)
        return nnx.relu(self.second(nnx.relu(self.first(x))) + kept)


class ResNet(nnx.Module):
    """Three stages of ``blocks`` blocks, the mean over the picture, a linear layer."""

    def __init__(
        self, channels: int, classes: int, blocks: int, stem: int, stages: list[int], rngs: nnx.Rngs
    ) -> None:
        self.stem, width, layers = Convolution(channels, stem, 3, 1, rngs), stem, []
        for number, outputs in enumerate(stages):
            for block in range(blocks):
                layers.append(Block(width, outputs, 2 if number and not block else 1, rngs))
                width = outputs
        self.layers, self.head = nnx.Sequential(*layers), nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return (batch, classes)."""
        return self.head(self.layers(nnx.relu(self.stem(x))).mean((1, 2)))


class Layer(nnx.Module):
    """Pre-norm attention and two linear layers, each added to its input."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(max(1, width // 64), width, decode=False, rngs=rngs)
        self.wide = nnx.Linear(width, 4 * width, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return (batch, patches, width)."""
        x = x + self.attention(self.norms[0](x))
        return x + self.narrow(nnx.gelu(self.wide(self.norms[1](x))))


class ViT(nnx.Module):
    """Patches of an eighth of the side, six layers, the mean over the patches."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, width: int, rngs: nnx.Rngs
    ) -> None:
        size = max(1, min(shape[:2]) // 8)
        count = (shape[0] // size) * (shape[1] // size)
        self.patches = nnx.Conv(shape[2], width, (size, size), size, padding="VALID", rngs=rngs)
        self.places = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, count, width)))
        self.layers = nnx.Sequential(*(Layer(width, rngs) for _ in range(6)))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return (batch, classes)."""
        tokens = self.patches(x)
        tokens = tokens.reshape(x.shape[0], -1, tokens.shape[-1]) + self.places[...]
        return self.head(self.norm(self.layers(tokens)).mean(1))

"""Networks by name, with their weights: CIFAR's ResNets, a small ViT, timm's, transformers'."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch
from data import Data, InputError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional


def ours(name: str) -> Any:
    """Return what makes a network of ours from shape and classes; None for other names.

    ``resnet20``, ``resnet56`` … have 6n + 2 layers and 16 to 64 channels (He et al. 2016), ``x4``
    four times as many after a stem of 32, ``w8`` 8 to 32; ``vit-192`` is of this width.
    """
    if found := re.fullmatch(r"vit-([1-9]\d*)", name):
        return partial(ViT, width=int(found[1]))
    found = re.fullmatch(r"resnet(\d+)(?:x([1-9])|w([1-9]\d*))?", name)
    if found and int(found[1]) in range(8, 1500, 6):
        depth, times, width = (int(x or 0) for x in found.groups())
        stem = width or (32 if times else 16)
        stages = [(16 * times or stem) * 2**i for i in range(3)]
        return lambda shape, classes: ResNet(shape[2], classes, (depth - 2) // 6, stem, stages)


def build(name: str, option: str, data: Data, weights: Path | None = None) -> FromPixels:
    """Return a network of ours, ``timm:NAME``, a folder of transformers', ``module:function``'s."""
    mean, std, size, classes = data.mean, data.std, None, len(data.classes)
    if ours(name):
        model: Any = ours(name)(data.shape, classes)
    elif name.startswith("timm:"):
        try:
            import timm

            own = weights is not None or option == "--student"  # else of ImageNet
            more = {"num_classes": classes} if own else {}
            model = timm.create_model(name.removeprefix("timm:"), pretrained=not own, **more)
        except Exception as error:  # of its import, of the name, of the download
            raise InputError(f"{option} {name} cannot be made: {error}") from error
        known = model.pretrained_cfg
        mean, std, size = known["mean"], known["std"], known["input_size"][-1]
    elif Path(name).is_dir():
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

        kind, own = AutoModelForImageClassification, option == "--student"  # then without weights
        config = AutoConfig.from_pretrained(name, **{"num_labels": classes} if own else {})
        model = kind.from_config(config) if own else kind.from_pretrained(name)
        known = AutoImageProcessor.from_pretrained(name)
        mean, std = known.image_mean, known.image_std
        size = known.size.get("height", known.size.get("shortest_edge"))
    else:
        model = common.call(name, option, data.shape, classes)
    if not isinstance(model, nn.Module):
        raise InputError(f"{option} {name} gave a {type(model).__name__}, not an nn.Module")
    if weights is not None:
        load_weights(model, weights)
    return FromPixels(model, mean, std, size).eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights, unwrapped from ``state_dict`` or ``model`` and from ``module.``."""
    try:
        ours = path.suffix == ".safetensors"
        state = load_file(path) if ours else torch.load(path, "cpu", weights_only=True)
        for key in ("state_dict", "model", "student"):
            state = state[key] if isinstance(state.get(key), dict) else state
        prefix = re.compile(r"^(module\.|_orig_mod\.)+")
        model.load_state_dict({prefix.sub("", key): value for key, value in state.items()})
    except Exception as error:  # torch's, pickle's and safetensors' own types
        raise InputError(f"{path} does not fit: {' '.join(str(error).split())[:300]}") from error


class FromPixels(nn.Module):
    """A network with its size and normalisation before it: from pixels of 0 to 1 to logits."""

    def __init__(self, model: nn.Module, mean: Any, std: Any, size: int | None = None) -> None:
        super().__init__()
        self.model, self.size = model, size
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (batch, classes)."""
        if self.size not in (None, pixels.shape[-1]):
            size = (self.size, self.size)
            pixels = functional.interpolate(pixels, size, mode="bicubic", antialias=True)
        found = self.model((pixels - self.mean) / self.std)
        return getattr(found, "logits", found)  # of transformers


def convolve(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Return a "same" convolution and its batch norm."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two 3×3 convolutions added to the input (a 1×1 convolution of it where shapes differ)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = convolve(inputs, outputs, 3, stride)
        self.second = convolve(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else convolve(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(branch + shortcut)."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class ResNet(nn.Sequential):
    """Three stages of ``blocks`` blocks, the mean over the picture, a linear layer."""

    def __init__(self, channels: int, classes: int, blocks: int, stem: int, stages: list[int]):
        layers, width = [convolve(channels, stem, 3), nn.ReLU()], stem
        for number in range(3 * blocks):
            outputs, begins = stages[number // blocks], number and number % blocks == 0
            layers.append(Block(width, width := outputs, 2 if begins else 1))
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
        super().__init__(*layers, *head)


class ViT(nn.Module):
    """Patches of an eighth of the side, six pre-norm layers, the mean over the patches."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        size, heads = max(1, min(shape[:2]) // 8), max(1, width // 64)
        self.patches = nn.Conv2d(shape[2], width, size, size)
        count = (shape[0] // size) * (shape[1] // size)
        self.places = nn.Parameter(0.02 * torch.randn(1, count, width))
        kind = partial(nn.TransformerEncoderLayer, width, heads, 4 * width, 0.0, "gelu")
        layers = (kind(batch_first=True, norm_first=True) for _ in range(6))
        self.layers, self.norm = nn.Sequential(*layers), nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.layers(tokens)).mean(1))

"""Students in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.export.families import CLASSES, TOKENS, VOCABULARY


def cnn(scale: int) -> nn.Module:
    """Convolution, batch norm, dropout."""
    width = 8 * scale
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(width * 36, CLASSES["cnn"]),
    )


def depthwise(scale: int) -> nn.Module:
    """A depthwise and a pointwise convolution."""
    width = 16 * scale
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, width, 1),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, CLASSES["depthwise"]),
    )


class Encoder(nn.Module):
    """Tokens and their mask to classes: the mean of the valid tokens."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        width = 16 * scale
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(torch.randn(TOKENS, width) / 4)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES["encoder"])

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of tokens and mask (batch, time)."""
        states = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        states = self.layers(states, src_key_padding_mask=mask == 0)
        valid = mask[..., None].to(states.dtype)
        return self.head((states * valid).sum(1) / valid.sum(1))


def series(scale: int) -> nn.Module:
    """1-D convolutions and the mean over time."""
    width = 12 * scale
    return nn.Sequential(
        nn.Conv1d(4, width, 5, padding=2),
        nn.BatchNorm1d(width),
        nn.GELU(),
        nn.Conv1d(width, width, 3, padding=2, dilation=2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(width, CLASSES["series"]),
    )


def build(family: str, seed: int = 0, scale: int = 1) -> nn.Module:
    """One student, with batch norm statistics that are not those of the batch.

    `scale` multiplies the widths: the larger network is the teacher of the benchmark.
    """
    torch.manual_seed(seed)
    makers = {"cnn": cnn, "depthwise": depthwise, "encoder": Encoder, "series": series}
    student = makers[family](scale)
    for module in student.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.running_mean, -1.0, 1.0)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return student


def from_npz(path: Path) -> nn.Module:
    """What ``--load`` calls in the tests: a file that only this function understands."""
    student = nn.Linear(6, 3)
    with np.load(path) as arrays:
        student.weight.data = torch.from_numpy(arrays["weight"])
    return student


def from_npz_described(path: Path) -> tuple[nn.Module, tuple[int], dict[str, Any]]:
    """The same with what the file says of its student."""
    return from_npz(path), (6,), {"teacher": "wide", "classes": ["a", "b", "c"]}

"""The networks that the tables train."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    """CIFAR's residual block; a 1 × 1 convolution where the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.other_norm = nn.BatchNorm2d(width)
        self.short: nn.Module = nn.Identity()
        if inputs != width or stride != 1:
            short = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.short = nn.Sequential(short, nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, inputs, height, width) to (batch, width, height / stride, …)."""
        y = torch.relu(self.norm(self.first(x)))
        return torch.relu(self.other_norm(self.second(y)) + self.short(x))


def resnet(depth: int, factor: int, classes: int) -> nn.Module:
    """Return CIFAR's ResNet of ``depth`` = 6 n + 2 layers, its widths times ``factor``.

    Three stages of 16, 32 and 64 channels after a stem of 16 (ResNet-8×4: 64, 128, 256 after a
    stem of 32, as in the published pairs).
    """
    inputs = 32 if factor == 4 else 16 * factor
    layers = [nn.Conv2d(3, inputs, 3, 1, 1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU()]
    for stage, width in enumerate((16, 32, 64)):
        for block in range((depth - 2) // 6):
            stride = 2 if stage and not block else 1
            layers.append(Block(inputs, width * factor, stride))
            inputs = width * factor
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def mlp(inputs: int, classes: int, *widths: int, dropout: float = 0.0) -> nn.Module:
    """Return a multilayer perceptron on flattened rows."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def conv(channels: int, classes: int, width: int) -> nn.Module:
    """Return three convolutions of width, 2 · width, 4 · width with batch norm and mean pooling."""
    layers: list[nn.Module] = []
    for number in range(3):
        out = width << number
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(out), nn.ReLU(), *([nn.MaxPool2d(2)] if number < 2 else [])]
        channels = out
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


class WordConvolution(nn.Module):
    """Word embeddings, one convolution over three words, the maximum over the text."""

    def __init__(self, classes: int, width: int, words: int = 8002) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.convolution = nn.Conv1d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(width, classes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return (texts, classes) logits of (texts, words) numbers."""
        features = self.convolution(self.dropout(self.embedding(ids)).transpose(1, 2))
        logits: torch.Tensor = self.head(self.dropout(torch.relu(features).amax(2)))
        return logits


class WindowClassifier(nn.Module):
    """Three convolutions, mean and maximum over the valid steps, a linear head.

    Takes (windows, channels + 1, steps), the last channel 1 at valid steps and 0 at padding.
    """

    def __init__(self, channels: int, width: int, classes: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        sizes = zip((channels, width, width), (7, 5, 3), dilations, strict=True)
        for inputs, size, dilation in sizes:
            padding = size // 2 * dilation
            self.convolutions.append(
                nn.Conv1d(inputs, width, size, padding=padding, dilation=dilation)
            )
            self.norms.append(nn.BatchNorm1d(width))
        self.head = nn.Linear(2 * width, classes)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return (windows, classes) logits."""
        valid, x = values[:, -1:], values[:, :-1]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = torch.relu(norm(convolution(x))) * valid
        logits: torch.Tensor = self.head(torch.cat([x.sum(2) / valid.sum(2), x.amax(2)], 1))
        return logits

"""PyTorch models of time series: a classifier of windows, a forecaster, and how teachers train."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from ..data.series import CONTEXT, HORIZON
from ..fit import by_epoch, fit, linear


class WindowClassifier(nn.Module):
    """Three convolutions, mean and maximum over the valid steps, a linear head.

    Takes (windows, channels + 1, steps), the last channel 1 at valid steps and 0 at padding.
    """

    def __init__(self, channels: int, width: int, classes: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        for inputs, size, dilation in zip(
            (channels, width, width), (7, 5, 3), dilations, strict=True
        ):
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
        return self.head(torch.cat([x.sum(2) / valid.sum(2), x.amax(2)], 1))


class Forecaster(nn.Module):
    """One hidden layer on the last values, in and out in the units of the series."""

    def __init__(self, width: int, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(CONTEXT, width), nn.ReLU(), nn.Linear(width, HORIZON)
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return (windows, horizon) values from (windows, context)."""
        return self.mean + self.deviation * self.layers((values - self.mean) / self.deviation)


def shuffled(order: np.random.Generator, count: int, size: int) -> Iterator[torch.Tensor]:
    """Yield the rows of an epoch's batches."""
    for rows in np.array_split(order.permutation(count), max(1, count // size)):
        yield torch.tensor(rows)


def train_teacher(
    model: nn.Module,
    inputs: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    epochs: int,
    lr: float,
) -> nn.Module:
    """Train a teacher on ``loss(outputs, rows)`` by Adam with a rate that falls to 0."""
    order = np.random.default_rng(0)
    return fit(
        model,
        lambda: shuffled(order, len(inputs), 64),
        lambda rows, progress: loss(model(inputs[rows]), rows),
        torch.optim.Adam(model.parameters(), lr=lr),
        epochs,
        schedule=by_epoch(linear, epochs),
    )

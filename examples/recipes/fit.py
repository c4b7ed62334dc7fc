"""The loop of the small PyTorch models, whose data fit in memory, and images as rows for them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .data import Dataset, Split


def cosine(progress: float) -> float:
    """Return the factor of a rate that falls from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """Return the factor of a rate that falls from 1 to 0 evenly."""
    return 1.0 - progress


def constant(progress: float) -> float:
    """Return 1."""
    return 1.0


def by_epoch(schedule: Callable[[float], float], epochs: int) -> Callable[[float], float]:
    """Return the schedule with one rate an epoch, that of its start."""
    return lambda progress: schedule(math.floor(progress * epochs + 1e-6) / epochs)


def fit(
    model: nn.Module,
    batches: Callable[[], Iterable[Any]],
    loss: Callable[[Any, float], Tensor],
    optimizer: torch.optim.Optimizer,
    epochs: int,
    *,
    schedule: Callable[[float], float] = cosine,
    clip: float | None = None,
    after_step: Callable[[], Any] = lambda: None,
    after_epoch: Callable[[int, float], Any] = lambda epoch, loss: None,
) -> nn.Module:
    """Train a model; return it in evaluation mode.

    Args:
        model: is called by ``loss``.
        batches: called once an epoch for its batches, which may be row numbers.
        loss: of a batch, and of the part of the training that is done, in [0, 1).
        optimizer: with the highest rates.
        epochs: how many.
        schedule: the part that is done → the factor of the rates.
        clip: the greatest norm of the gradient.
        after_step: called after each step.
        after_epoch: called with the epoch's number, from 1 on, and its mean loss.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for epoch in range(epochs):
        model.train()
        listed, losses = list(batches()), []
        for step, batch in enumerate(listed):
            progress = (epoch + step / len(listed)) / epochs
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(progress)
            value = loss(batch, progress)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            after_step()
            losses.append(float(value.detach()))
        model.eval()
        after_epoch(epoch + 1, statistics.fmean(losses))
    return model.eval()


def as_rows(split: Split, data: Dataset, shrink: int = 1) -> tuple[Tensor, Tensor]:
    """Return standardised rows of pixels, or of means over ``shrink`` × ``shrink``, and labels."""
    pixels = (split.images / 255 - np.asarray(data.mean)) / np.asarray(data.std)
    rows, height, width, channels = pixels.shape
    blocks = pixels.reshape(rows, height // shrink, shrink, width // shrink, shrink, channels)
    means = blocks.mean((2, 4)).reshape(rows, -1).astype(np.float32)
    return torch.from_numpy(means), torch.from_numpy(split.labels)

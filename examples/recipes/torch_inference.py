"""Images to logits in PyTorch: device, pixels, predictions, accuracy."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn

from .data import Dataset, Split


def pick_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is the first accelerator, else the CPU."""
    if name != "auto":
        return torch.device(name)
    accelerator = torch.accelerator.current_accelerator()
    return torch.device("cpu") if accelerator is None else accelerator


class Pixels:
    """Turns (rows, height, width, channels) bytes into normalised tensors on the device."""

    def __init__(self, data: Dataset, device: torch.device) -> None:
        self.device = device
        shape = (1, -1, 1, 1)
        self.mean = torch.tensor(data.mean, device=device).view(shape)
        self.std = torch.tensor(data.std, device=device).view(shape)

    def __call__(self, images: np.ndarray) -> Tensor:
        """Return (rows, channels, height, width) float32."""
        pixels = torch.from_numpy(images).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return (pixels.float() / 255 - self.mean) / self.std


@torch.no_grad()
def predict(model: nn.Module, split: Split, pixels: Pixels, batch_size: int) -> Tensor:
    """Return the logits of a whole split, in evaluation mode; restores the mode."""
    was_training = model.training
    model.eval()
    parts = [
        model(pixels(split.images[start : start + batch_size])).float()
        for start in range(0, len(split), batch_size)
    ]
    model.train(was_training)
    return torch.cat(parts)


def test_logits(model: nn.Module, data: Dataset, options: argparse.Namespace) -> np.ndarray:
    """Return the model's logits of the test split, for the pictures."""
    device = pick_device(options.device)
    pixels = Pixels(data, device)
    return predict(model.to(device), data.test, pixels, options.eval_batch_size).cpu().numpy()


def accuracy(logits: Tensor, labels: np.ndarray) -> float:
    """Return the part of rows whose greatest logit is the label's."""
    return float((logits.argmax(1).cpu().numpy() == labels).mean())

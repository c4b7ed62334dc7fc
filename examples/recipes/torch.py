"""What the loop of PyTorch needs: the device, images as tensors, logits of a split, and files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .data import Dataset, Split
from .files import write_atomically
from .run import Processes


def find_device(name: str) -> tuple[torch.device, Processes]:
    """Return the device of that name, and the processes of ``torchrun`` that train together."""
    accelerator = torch.accelerator.current_accelerator()
    device = torch.device(name if name != "auto" else accelerator or "cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device, Processes()
    from .processes.torch import Ranks

    ranks = Ranks(device)
    return ranks.device, ranks


class Pixels:
    """Turns (rows, height, width, channels) bytes into normalised tensors on the device."""

    def __init__(self, data: Dataset, device: torch.device, channels_last: bool = False) -> None:
        self.device = device
        moments = (data.mean, data.std)
        self.mean, self.std = (torch.tensor(x, device=device).view(1, -1, 1, 1) for x in moments)
        self.memory = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: np.ndarray) -> Tensor:
        """Return (rows, channels, height, width) float32."""
        pixels = torch.from_numpy(images).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return ((pixels.float() / 255 - self.mean) / self.std).contiguous(memory_format=self.memory)


@torch.no_grad()
def predict(model: nn.Module, split: Split, pixels: Pixels, batch_size: int) -> np.ndarray:
    """Return the logits of a whole split in float32, in evaluation mode; restores the mode."""
    was_training = model.training
    model.to(pixels.device).eval()
    starts = range(0, len(split), batch_size)
    parts = [model(pixels(split.images[start : start + batch_size])).float() for start in starts]
    model.train(was_training)
    return torch.cat(parts).cpu().numpy()


def save_torch(path: Path, state: dict[str, Any]) -> None:
    """Write a PyTorch checkpoint; the previous one stays whole until the new one is."""
    buffer = io.BytesIO()  # where a disk is full, torch.save would raise a RuntimeError of its own
    torch.save(state, buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))

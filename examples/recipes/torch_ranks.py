"""Several processes under ``torchrun``: who this one is, and what it shares with the others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .logs import say
from .torch_inference import pick_device


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among ``world``, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print a line, once for all ranks."""
        if self.first:
            say(text)

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Return this rank's rows of a batch: as many as every other rank's.

        Equal shares make the mean of the ranks' losses the loss of the whole batch; at most
        ``world − 1`` rows of a ragged last batch go unused.
        """
        even = len(rows) - len(rows) % self.world
        return rows[self.rank : even : self.world]

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model, averaging gradients over the ranks where there are several."""
        if self.world == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        if self.world == 1:
            return value
        result = value.clone()
        dist.all_reduce(result)
        return result

    def agree(self, value: Any) -> Any:
        """Return the first rank's value on every rank."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


def find_ranks(device: str) -> Ranks:
    """Join the process group that ``torchrun`` announced, or stand alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks(0, 1, pick_device(device))
    chosen = pick_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), world, chosen)

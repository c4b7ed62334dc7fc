"""Several processes of PyTorch under ``torchrun``: who this one is, and what it shares."""

from __future__ import annotations

import atexit
import os
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Ranks:
    """The processes of ``torchrun``: which one this is, and its device; one without torchrun."""

    def __init__(self, device: str) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        accelerator = torch.accelerator.current_accelerator()
        chosen = torch.device(device if device != "auto" else accelerator or "cpu")
        if self.world > 1 and chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(chosen)
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
            atexit.register(leave_group)
        self.device = chosen
        self.rank = dist.get_rank() if self.world > 1 else 0
        self.first = self.rank == 0

    def share(self, count: int) -> slice:
        """Return this rank's rows of a batch of ``count``: as many as every other rank's.

        Equal shares make the mean of the ranks' losses the loss of the whole batch; at most
        ``world − 1`` rows of a ragged last batch go unused.
        """
        return slice(self.rank, count - count % self.world, self.world)

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

    def any(self, flag: bool) -> bool:
        """Return whether any rank says so; every rank has to ask."""
        if self.world == 1:
            return flag
        return float(self.total(torch.tensor(float(flag), device=self.device))) > 0

    def agree(self, value: Any) -> Any:
        """Return the first rank's value on every rank."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier()


def leave_group() -> None:
    """End the process group before Python ends.

    A thread of gloo that still frees the last rows it gathered aborts a process that is ending
    (``terminate called without an active exception``): the pause lets it finish.
    """
    dist.destroy_process_group()
    time.sleep(0.5)

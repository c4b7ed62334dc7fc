"""Several processes of PyTorch, as ``torchrun`` starts them, and batch norm over all of them."""

from __future__ import annotations

import atexit
import os
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..run import Processes


class Ranks(Processes):
    """The processes of ``torchrun``: which one this is, and its device."""

    alone = False

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self.device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            atexit.register(leave_group)
        self.rank, self.devices = dist.get_rank(), dist.get_world_size()

    def share(self, count: int) -> slice:
        """Return this rank's rows of a batch of ``count``: as many as every other rank's.

        Equal shares make the mean of the ranks' losses the loss of the whole batch; at most
        ``ranks − 1`` rows of a ragged last batch go unused.
        """
        return slice(self.rank, count - count % self.devices, self.devices)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model, averaging gradients over the ranks."""
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def total(self, value: Any) -> Tensor:
        """Return the sum over the ranks."""
        result = torch.as_tensor(value, device=self.device).clone()
        dist.all_reduce(result)
        return result

    def any(self, flag: bool) -> bool:
        """Return whether any rank says so; every rank has to ask."""
        return float(self.total(float(flag))) > 0


def leave_group() -> None:
    """End the process group before Python ends.

    A thread of gloo that still frees the last rows it gathered aborts a process that is ending
    (``terminate called without an active exception``): the pause lets it finish.
    """
    dist.destroy_process_group()
    time.sleep(0.5)


# ---- batch norm over all of them, for --sync-bn ----


class _Sum(torch.autograd.Function):
    """The sum over the ranks; the gradient of a sum over the ranks is one, too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        result = value.clone()
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        result = gradient.clone()
        dist.all_reduce(result)
        return result


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose mean and variance are those of all ranks' rows, on every device.

    PyTorch's own `SyncBatchNorm` runs on GPUs only. Every rank has as many rows.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised images; in evaluation mode as `torch.nn.BatchNorm2d`."""
        if not self.training:
            return super().forward(x)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        wide = x.float()
        mean = _Sum.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean.view(1, -1, 1, 1)
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scaled = centred * (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        shape = (1, -1, 1, 1)
        return (scaled * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)


def share_norms(model: nn.Module) -> None:
    """Turn every `torch.nn.BatchNorm2d` of a model into a `SharedBatchNorm`, in place."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats:
            module.__class__ = SharedBatchNorm

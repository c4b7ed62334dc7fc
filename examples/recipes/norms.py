"""Batch norm over all processes of PyTorch, for ``--sync-bn``."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


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

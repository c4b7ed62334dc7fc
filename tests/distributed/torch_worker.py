"""Losses and gradients by PyTorch's ranks, written to a file by the first.

Run by test_torch.py: ``python -m torch.distributed.run … -m tests.distributed.torch_worker OUT``.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.torch import MCLDLoss, gather_keys
from tests.distributed.replicas import Joined, joined_batches
from tests.distributed.steps import (
    BANK,
    CLASSES,
    PRIOR,
    TOTAL_STEPS,
    Step,
    make_model,
    make_steps,
    measured,
)
from tests.oracles import Case
from tests.processes import leave_group


class Shift(nn.Module):
    """Student logits plus a bias that all ranks share."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, classes))

    def forward(self, student: torch.Tensor) -> torch.Tensor:
        return student + self.shift


def main(out: str) -> None:
    """Compute all cases; rank 0 writes them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks, rank = dist.get_world_size(), dist.get_rank()
    found: dict[str, Any] = {"replicas": ranks}
    for joined in joined_batches(ranks):
        for name, value in replica(joined, joined.parts()[rank]).items():
            found[f"{joined.name}/{name}"] = value
    steps = make_steps(ranks)
    found |= {f"ddp/{name}": x for name, x in train(steps, rank, DistributedDataParallel).items()}
    found |= measure(steps, rank)
    if ranks == 2:  # enough to show it
        found |= {f"fsdp/{name}": x for name, x in train(steps, rank, shard, False).items()}
        found["fullgraph"] = compiled(joined_batches(ranks)[0], rank)
    dist.barrier()
    if rank == 0:
        with open(f"{out}.tmp", "wb") as file:
            np.savez(file, **found)
        os.replace(f"{out}.tmp", out)
    gc.collect()  # gloo may hang where DDP's reducer outlives the process group
    leave_group()


def tensors(case: Case) -> dict[str, torch.Tensor | None]:
    """Return the case's arrays, floats as float32."""
    names = ("student", "teacher", "labels", "sample_weight", "where")
    arrays = {name: getattr(case, name) for name in names}
    return {
        name: None
        if x is None
        else torch.tensor(x, dtype=torch.float32 if x.dtype == np.float64 else None)
        for name, x in arrays.items()
    }


def replica(joined: Joined, part: Case) -> dict[str, np.ndarray]:
    """Return the mean loss of the ranks, its gradient by all rows, and by the shared bias."""
    given = tensors(part)
    student, teacher, labels = (given.pop(name) for name in ("student", "teacher", "labels"))
    student.requires_grad_()
    model = DistributedDataParallel(Shift(student.shape[1]))
    keys = gather_keys(teacher, labels, **given)
    loss = mcld_loss(
        model(student), teacher, labels, config=MCLDConfig(**joined.settings), keys=keys, **given
    )
    loss.backward()
    ranks = dist.get_world_size()
    gradients: list[Any] = [None] * ranks
    dist.all_gather_object(gradients, student.grad.numpy() / ranks)
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    return {
        "loss": (mean / ranks).numpy(),
        "gradient": np.concatenate(gradients),
        "shared": model.module.shift.grad.numpy(),
    }


def measure(steps: list[list[Step]], rank: int) -> dict[str, np.ndarray]:
    """Return the teacher's quality, its sums reduced over the ranks."""
    sums = measured([parts[rank] for parts in steps])
    for field in sums.values():
        dist.all_reduce(field)
    return {name: field.numpy() for name, field in sums.items()}


def shard(model: nn.Module) -> nn.Module:
    """FSDP2."""
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (dist.get_world_size(),)))
    return model


def train(
    steps: list[list[Step]], rank: int, wrap: Any, in_turn: bool = True
) -> dict[str, np.ndarray]:
    """Train with `MCLDLoss`, its bank and its ramp; return losses, weights and bank."""
    model = wrap(make_model())
    options = {"total_steps": TOTAL_STEPS, "bank_size": BANK, "classes": CLASSES}
    loss_function = MCLDLoss(**options, class_prior=PRIOR, dealt_in_turn=in_turn)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in steps:
        inputs, teacher, labels, where, index = step[rank]
        optimizer.zero_grad()
        loss = loss_function(model(inputs), teacher, labels, where=where, index=index)
        loss.backward()
        optimizer.step()
        loss_function.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / dist.get_world_size())
    weights = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    banks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(banks, [x.numpy() for x in loss_function.bank])
    for other in banks[1:]:
        for ours, theirs in zip(banks[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    return {
        "losses": np.array(losses),
        "weights": np.concatenate([p.detach().numpy().ravel() for p in weights]),
        **{f"bank{number}": x for number, x in enumerate(banks[0])},
    }


def compiled(joined: Joined, rank: int) -> np.ndarray:
    """Return the mean loss of the ranks by a module that is one graph, its collectives inside."""
    given = tensors(joined.parts()[rank])
    student, teacher, labels = (given[name] for name in ("student", "teacher", "labels"))
    student.requires_grad_()
    loss_function = MCLDLoss(bank_size=BANK, classes=CLASSES, rows_per_rank=student.shape[0])
    whole = torch.compile(loss_function, fullgraph=True, backend="aot_eager")
    loss = whole(student, teacher, labels)
    loss.backward()
    assert student.grad is not None
    assert loss_function.bank.where.sum() == min(BANK, dist.get_world_size() * len(student))
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    return (mean / dist.get_world_size()).numpy()


if __name__ == "__main__":
    main(sys.argv[1])

"""What test_trainers_on_ranks.py runs on two ranks: both Trainers, in one process group.

``python -m torch.distributed.run … -m tests.torch.trainers_worker OUT``
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests.processes import leave_group
from tests.torch import tiny_language_model, tiny_trainer


def main(out: str) -> None:
    """Train on this rank's part of the batches and evaluate; rank 0 writes what came out."""
    torch.set_num_threads(1)
    found = _train(Path(out).parent)
    if torch.distributed.get_rank() == 0:
        torch.save(found, f"{out}.tmp")
        os.replace(f"{out}.tmp", out)
    gc.collect()  # gloo may hang where DDP's reducer outlives the process group
    leave_group()


def _train(folder: Path) -> dict[str, Any]:
    found = {}
    for tiny, batch in ((tiny_trainer, 4), (tiny_language_model, 3)):
        trainer = tiny.make_trainer(folder / "ranks", batch=batch, teacher=tiny.make_teacher())
        trainer.train()
        found[tiny.__name__.rpartition(".")[2]] = tiny.weights(trainer.model)
    return found | {"metrics": trainer.evaluate(), "sharded": _sharded(folder)}


def _sharded(folder: Path) -> list[torch.Tensor]:
    """Return the weights after a step under FSDP2, whose units also hold layers or the head."""
    tiny, rank = tiny_language_model, torch.distributed.get_rank()
    mesh, found = torch.distributed.init_device_mesh("cpu", (2,)), []
    for units, fused in (("head", True), ("layers", True), ("model", True), ("model", False)):
        model = tiny.make_model(8, seed=0)
        parts = {"head": [model.lm_head], "layers": model.model.layers}
        for part in (*parts.get(units, ()), model):
            fully_shard(part, mesh=mesh)
        trainer = tiny.make_trainer(
            folder / "sharded", batch=3, model=model, teacher=tiny.make_teacher(), fused=fused
        )
        assert trainer.fused == fused
        assert all(isinstance(p, DTensor) for p in model.parameters())
        batch = tiny.Padding("left")(tiny.make_data()[3 * rank : 3 * rank + 3])
        items = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
        trainer.compute_loss(model.train(), batch, num_items_in_batch=items).backward()
        assert all(isinstance(p.grad, DTensor) for p in model.parameters())
        trainer.optimizer.step()
        whole = [p.full_tensor().detach().ravel() for p in model.parameters()]
        found.append(torch.cat(whole))
    return found


if __name__ == "__main__":
    main(sys.argv[1])

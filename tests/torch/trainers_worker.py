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

from examples.recipes.processes.torch import leave_group
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
    return found | {"metrics": trainer.evaluate()}


if __name__ == "__main__":
    main(sys.argv[1])

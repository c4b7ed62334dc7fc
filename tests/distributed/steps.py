"""A short training that PyTorch's ranks and one process do alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from mcld_core.extensions.teachers import TeacherQuality
from tests.cases import logits

FEATURES, CLASSES, BANK, TOTAL_STEPS = 3, 4, 11, 6
STEPS = 4
PRIOR = (4.0, 1.0, 2.0, 3.0)

Step = tuple[torch.Tensor, ...]
"""Inputs, teacher logits, labels, where and sample ids of one rank's batch."""


def make_model() -> nn.Module:
    """Return the same student everywhere."""
    torch.manual_seed(0)
    return nn.Linear(FEATURES, CLASSES)


def make_steps(ranks: int) -> list[list[Step]]:
    """Return the batches of each step, one a rank; the sizes differ, and rows are dropped."""
    rng = np.random.default_rng(1)
    return [
        [_batch(rng, size=4 if rank or step % 2 else 2) for rank in range(ranks)]
        for step in range(STEPS)
    ]


def join(parts: list[Step], in_turn: bool = True) -> Step:
    """Return the ranks' batches as one, of which each rank has a row in turn, or a part."""
    places = [(row, rank) for rank, part in enumerate(parts) for row in range(len(part[0]))]
    order = sorted(range(len(places)), key=places.__getitem__ if in_turn else None)
    return tuple(torch.cat(x)[order] for x in zip(*parts, strict=True))


def measured(batches: list[Step]) -> dict[str, torch.Tensor]:
    """Return the sums of the teacher's quality."""
    like = batches[0][1]
    quality = TeacherQuality.empty(CLASSES, like=like)
    for _, teacher, labels, where, _ in batches:
        quality = quality.update(teacher, labels, where=where)
    return {f"quality/{name}": x for name, x in quality._asdict().items()}


def _batch(rng: np.random.Generator, size: int) -> Step:
    labels = rng.integers(0, CLASSES, size)
    labels[rng.random(size) < 0.2] = -100
    return (
        torch.tensor(logits(rng, size, FEATURES), dtype=torch.float32),
        torch.tensor(logits(rng, size, CLASSES), dtype=torch.float32),
        torch.tensor(labels),
        torch.tensor(rng.random(size) < 0.8),
        torch.tensor(rng.integers(0, 40, size)),
    )

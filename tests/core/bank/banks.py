"""A first-in first-out memory as a Python list, and batches to fill it with."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcld_core import TeacherBank
from tests.cases import logits
from tests.frameworks import Framework

CLASSES = 4


class ListBank:
    """What a first-in first-out memory is: a list that forgets its oldest entries."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: list[tuple[tuple[float, ...], int, int]] = []

    def push(self, rows: np.ndarray, labels: np.ndarray, keep: np.ndarray, ids: np.ndarray) -> None:
        for row, label, kept, sample in zip(rows, labels, keep, ids, strict=True):
            if kept and label != -100:
                self.entries.append((tuple(row), int(label), int(sample)))
        self.entries = self.entries[-self.capacity :]


def entries(backend: Framework, bank: TeacherBank) -> list[tuple[tuple[float, ...], int, int]]:
    """Return the rows of a bank, oldest first."""
    rows, labels, where, ids, cursor = (backend.to_numpy(x) for x in bank)
    order = (np.arange(len(rows)) + int(cursor)) % len(rows)
    return [(tuple(rows[i]), int(labels[i]), int(ids[i])) for i in order if where[i]]


def batches(seed: int, sizes: tuple[int, ...]) -> list[tuple[np.ndarray, ...]]:
    """Return batches of (rows, labels, keep, ids); some rows are dropped, some ignored."""
    rng = np.random.default_rng(seed)
    made = []
    for size in sizes:
        labels = rng.integers(0, CLASSES, size)
        labels[rng.random(size) < 0.2] = -100
        keep, ids = rng.random(size) < 0.8, rng.integers(0, 50, size)
        made.append((logits(rng, size, CLASSES), labels, keep, ids))
    return made


def arrays(backend: Framework, values: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
    return tuple(backend.array(x, "float32") for x in values)


def empty(backend: Framework, capacity: int, **options: Any) -> TeacherBank:
    like = backend.array(np.zeros(1), "float32")
    return TeacherBank.empty(capacity, CLASSES, like=like, **options)

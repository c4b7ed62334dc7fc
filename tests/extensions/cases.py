"""Sequences to test with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mcld_core import MCLDConfig
from tests.cases import logits
from tests.frameworks import Framework

BATCH, TIME, CLASSES = 4, 3, 5


@dataclass(frozen=True, eq=False)
class SequenceCase:
    """A batch of sequences; the names of the fields are those of the losses' arguments."""

    student: np.ndarray
    teacher: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    groups: np.ndarray

    def but(self, **changes: Any) -> SequenceCase:
        """Return the same case with some arguments changed."""
        return replace(self, **changes)


def make_case(seed: int = 0, batch: int = BATCH, time: int = TIME) -> SequenceCase:
    """Return sequences of ragged length, one of them empty, with -100 in a label that counts."""
    rng = np.random.default_rng(seed)
    lengths = np.asarray([time, time - 1, 0, 1])[np.arange(batch) % 4]
    labels = rng.integers(0, 3, (batch, time))
    labels[0, 1] = -100
    mask = np.arange(time)[None, :] < lengths[:, None]
    mask[1:2] = mask[1:2, ::-1]  # padded on the left
    return SequenceCase(
        student=logits(rng, batch, time, CLASSES),
        teacher=logits(rng, batch, time, CLASSES),
        labels=labels,
        mask=mask,
        groups=np.asarray([3, 7, 3, 3])[np.arange(batch) % 4],
    )


def call(
    backend: Framework,
    function: Callable[..., Any],
    case: SequenceCase,
    dtype: str = "float64",
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Callable[[Any], Any]:
    """Return student → function(student, …) with arrays of the backend."""
    teacher = backend.array(case.teacher, dtype)
    arrays = {
        name: backend.array(value, dtype) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    config = MCLDConfig(**(settings or {}))
    return lambda student: function(student, teacher, config=config, **arrays)

"""Whether the steps of a training are counted."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn


class MissedSteps:
    """Tells that a training goes on and its steps are never counted."""

    def __init__(self) -> None:
        self.batches: int | None = 0
        """Without a counted step; None once one was counted."""
        self._seen: tuple[int, int] | None = None

    def counted(self) -> None:
        """Note a counted step: nothing is missed from now on."""
        self.batches = None

    def look(self, student: Any, limit: int, *, stacklevel: int) -> None:
        """Warn once, where the weights behind the logits have moved since the last batch.

        Where they cannot be watched, warn after ``limit`` batches: a step may take so many.
        """
        if self.batches is None:
            return
        self.batches += 1
        now = _version_of_a_weight(student)
        moved = now is not None and self._seen is not None and _has_moved(self._seen, now)
        self._seen = now
        if not moved and self.batches != limit:
            return
        proof = "although the weights have moved, " if moved else ""
        warnings.warn(
            "MCLDLoss: step() needs a call after each optimizer.step(); got none in "
            f"{self.batches} training batches, {proof}so the ramp of the category-wise term "
            "stands still",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
        self.batches = None


def _version_of_a_weight(logits: Any) -> tuple[int, int] | None:
    """Return which weight stands first in the logits' graph, and how often it was written to."""
    node = getattr(logits, "grad_fn", None)
    while node is not None and not isinstance(getattr(node, "variable", None), nn.Parameter):
        node = next((before for before, _ in node.next_functions if before is not None), None)
    return None if node is None else (id(node.variable), node.variable._version)


def _has_moved(before: tuple[int, int], now: tuple[int, int]) -> bool:
    return before[0] == now[0] and before[1] != now[1]

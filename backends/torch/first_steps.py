"""What an adapter looks at in the first steps of a training, and says once."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from mcld_core.config import MCLDConfig
from mcld_core.logits import SWAPPED, doubts


class FirstLook:
    """One look at the logits of the first eager step on a CPU, with a warning for each doubt.

    Args:
        name: of the adapter, with which its warnings begin.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = False

    def look(
        self,
        student: Any,
        teacher: Any,
        labels: Any,
        where: Any,
        config: MCLDConfig,
        *,
        stacklevel: int,
    ) -> None:
        """Look, unless this was done or the values cannot be read without waiting."""
        if self.done or torch.compiler.is_compiling():
            return
        found = doubts(student, teacher, labels, where, config)
        if found is None:
            return
        self.done = True
        if torch.is_grad_enabled() and _learns(teacher) and not _learns(student):
            found.append(SWAPPED.format("Pass the student's logits first, the teacher's second"))
        for text in found:
            warnings.warn(f"{self.name}: {text}", UserWarning, stacklevel=stacklevel + 1)


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
        """Warn once: where the weights have moved since the last batch, or after many batches.

        Args:
            student: the logits of a training batch.
            limit: how many batches one step may take, where the weights cannot be watched.
            stacklevel: as of ``warnings.warn``.
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


def learns(model: nn.Module) -> bool:
    """Whether a weight of the model needs a gradient."""
    return any(weight.requires_grad for weight in model.parameters())


def _learns(logits: Any) -> bool:
    return bool(getattr(logits, "requires_grad", False))


def _version_of_a_weight(logits: Any) -> tuple[int, int] | None:
    """Return which weight stands first in the logits' graph, and how often it was written to."""
    node = getattr(logits, "grad_fn", None)
    while node is not None and not isinstance(getattr(node, "variable", None), nn.Parameter):
        node = next((before for before, _ in node.next_functions if before is not None), None)
    return None if node is None else (id(node.variable), node.variable._version)


def _has_moved(before: tuple[int, int], now: tuple[int, int]) -> bool:
    return before[0] == now[0] and before[1] != now[1]

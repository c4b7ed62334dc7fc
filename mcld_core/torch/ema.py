"""The student's averaged weights as its teacher, in PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mcld_core.ema import ema_decay, ema_update


class EMATeacher(nn.Module):
    """A copy of a student whose weights are the student's averaged over its steps.

    Call `update` after each ``optimizer.step()``. The copy is always in eval mode, needs no
    gradient, and is in ``state_dict`` together with the number of updates. Floating buffers are
    averaged like weights, others (counters) copied. A model in half precision is averaged in
    float32, in a second copy `precise`, whatever the teacher is cast to.

    Args:
        student: the module to follow; it must not be wrapped (pass ``ddp.module``).
        decay: of `mcld_core.ema.ema_update`, 0 … 1.
        warm_up: start from a lower decay: ``min(decay, (1 + updates) / (10 + updates))``.

    Raises:
        ValueError: a decay outside 0 … 1; in `update` a student of other weights.

    Example:
        >>> student = torch.nn.Linear(3, 2)
        >>> teacher = EMATeacher(student, decay=0.99)
        >>> teacher.update(student)
        >>> tuple(teacher(torch.ones(4, 3)).shape)
        (4, 2)
    """

    updates: torch.Tensor
    precise: nn.Module | None

    def __init__(self, student: nn.Module, decay: float = 0.999, *, warm_up: bool = True) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"EMATeacher: decay needs a number in 0 … 1; got {decay!r}")
        self.decay, self.warm_up = decay, warm_up
        self.model = copy.deepcopy(student).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.precise = None
        self._keep_precise()
        self.eval()

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Take one step of the average towards the student's weights."""
        decay = ema_decay(int(self.updates), self.decay) if self.warm_up else self.decay
        average = (self.model if self.precise is None else self.precise).state_dict()
        model = self.model.state_dict()
        for name, value in ema_update(dict(average), dict(student.state_dict()), decay).items():
            average[name].copy_(value)
            model[name].copy_(value)
        self.updates += 1

    def train(self, mode: bool = True) -> EMATeacher:
        """Stay in eval mode, whatever the module that holds this one is set to."""
        return super().train(False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> EMATeacher:
        super()._apply(fn, recurse)
        self._keep_precise()
        return self

    def _keep_precise(self) -> None:
        """Make, or cast back, the float32 copy of a model that has half-precision weights."""
        if self.precise is None and any(map(_is_half, self.model.state_dict().values())):
            self.precise = copy.deepcopy(self.model)
        if self.precise is not None:
            self.precise._apply(lambda x: x.float() if _is_half(x) else x)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """Return the averaged model's output, without a gradient."""
        with torch.no_grad():
            return self.model(*inputs, **keywords)


def _is_half(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.dtype in (torch.float16, torch.bfloat16)

"""`torch.export` with a dynamic batch: every loss as a program that takes any number of rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.calls import BATCH, CALLS, Arrays, arrays, has_batch, longer, used_by


class Loss(torch.nn.Module):
    """A loss as the module that an export takes."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: dict[str, torch.Tensor]) -> Any:
        return CALLS[self.name](Arrays(**x))


@pytest.mark.parametrize("name", CALLS)
def test_an_exported_loss_takes_any_batch(name: str) -> None:
    x = used_by(name, Arrays(**{key: torch.tensor(value) for key, value in arrays().items()}))
    # a batch is pushed whole where the bank holds it: one side of its capacity, which is 12, a bank
    rows = torch.export.Dim("rows", min=2, max=11 if "bank" in name else 2**20)
    shapes = {key: {0: rows} if has_batch(name, key) else None for key in x}
    program = torch.export.export(Loss(name), (x,), dynamic_shapes=(shapes,)).module()
    x = longer(name, x, torch.cat)
    assert BATCH + 3 in {value.shape[0] for value in x.values() if value.ndim}
    torch.testing.assert_close(program(x), CALLS[name](Arrays(**x)))

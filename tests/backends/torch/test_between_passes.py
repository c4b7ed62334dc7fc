"""PyTorch: what happens between forward and backward changes no gradient unseen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mcld_core import MCLDConfig, mcld_loss

LABELS = torch.tensor([0, 1, 1, 2])


def gradients(
    config: MCLDConfig, factor: float = 1.0, dtype: torch.dtype | None = None
) -> list[torch.Tensor]:
    """First and second derivatives, the teacher multiplied in place and autocast on meanwhile."""
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 5, requires_grad=True), 3 * torch.randn(4, 5)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        loss = mcld_loss(student, teacher, LABELS, config=config)
        if factor != 1:
            teacher.mul_(factor)
        (first,) = torch.autograd.grad(loss, student, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), student)
    return [first.detach(), second]


@pytest.mark.parametrize("block_size", ["auto", None, 2])
def test_a_teacher_changed_in_place_is_an_error_or_no_change(block_size: Any) -> None:
    config = MCLDConfig(block_size=block_size)
    expected = gradients(config)
    if block_size == 2:  # the teacher's rows are read again
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            gradients(config, factor=3.0)
        return
    torch.testing.assert_close(gradients(config, factor=3.0), expected, rtol=0, atol=0)


@pytest.mark.parametrize("block_size", ["auto", None, 2])
def test_autocast_that_is_still_on_changes_nothing(block_size: Any) -> None:
    config = MCLDConfig(block_size=block_size)
    found = gradients(config, dtype=torch.bfloat16)
    torch.testing.assert_close(found, gradients(config), rtol=1e-5, atol=1e-7)

"""Every loss stays on its device and reads no number there: seen on torch's meta device.

Its tensors hold no numbers, so whoever reads one fails. Single numbers of the CPU may meet them, as
they may meet a GPU's.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mcld_core.torch import MCLDLoss
from tests.calls import CALLS, Arrays, arrays
from tests.torch_tensors import Made

STUDENTS = ("student", "token_student")
FROM_THE_HOST = (torch.ops.aten.lift_fresh.default,)
"""What brings a list or an array of the user to the device."""


def on_meta(func: Any, x: torch.Tensor) -> None:
    """Refuse a tensor with axes anywhere but on the meta device."""
    if x.ndim and func not in FROM_THE_HOST:
        assert x.device.type == "meta", f"{func} made a tensor on {x.device}"


@pytest.fixture
def x() -> Arrays:
    """The arrays as tensors without numbers; the student's are trained."""
    found = Arrays(**{key: torch.tensor(value, device="meta") for key, value in arrays().items()})
    for key in STUDENTS:
        getattr(found, key).requires_grad_()
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_loss_stays_on_its_device_and_reads_nothing(x: Arrays, name: str) -> None:
    with Made(on_meta):
        loss = CALLS[name](x)
        loss.backward()
    assert loss.device.type == "meta"
    assert any(getattr(x, key).grad is not None for key in STUDENTS)


def test_so_does_the_module(x: Arrays) -> None:
    with torch.device("meta"):
        loss = MCLDLoss(total_steps=10, bank_size=12, classes=4, class_prior=[1, 2, 3, 4])
    with Made(on_meta):
        loss(x.student, x.teacher, x.labels, where=x.where).backward()
        loss.step()


def test_a_read_and_a_tensor_elsewhere_are_seen(x: Arrays) -> None:
    with Made(on_meta):
        for read in (lambda: bool(x.where.any()), lambda: x.student.sum().item(), x.student.cpu):
            with pytest.raises((RuntimeError, NotImplementedError)):
                read()
        with pytest.raises(AssertionError, match="made a tensor on cpu"):
            torch.arange(4)

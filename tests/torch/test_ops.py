"""Conversion to PyTorch's tensors on devices that this machine may not have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mcld_core import MCLDConfig, TeacherBank, dkd_loss, kd_loss, mcld_loss
from mcld_core.backends import torch as ops
from tests.torch_tensors import Made


def no_float64(func: Any, x: torch.Tensor) -> None:
    """Refuse, as Apple's GPU does, a float64 tensor on torch's meta device."""
    if x.device.type == "meta":
        assert x.dtype is not torch.float64, f"{func} made a float64 tensor"


def test_no_float64_where_the_device_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_WITHOUT_FLOAT64", ("meta",))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # refuses meta
    student = torch.zeros(5, 4, device="meta", requires_grad=True)
    teacher, labels = np.zeros((5, 4)), np.zeros(5, "int64")
    config = MCLDConfig(temperature=np.float64(0.5), weight_sample=np.asarray(0.5))
    options = {"sample_weight": np.ones(5), "where": np.ones(5, bool)}
    with Made(no_float64):
        for number in (0.5, np.float64(0.5), np.asarray(0.5), np.asarray(0.5, "float32")):
            assert ops.asarray(number, student).dtype is torch.float32
        assert ops.asarray(labels, student).dtype is torch.int64
        mcld_loss(student, teacher, labels, config=config, progress=0.5, **options).backward()
        kd_loss(student, teacher, temperature=np.asarray(2.0), **options).backward()
        dkd_loss(student, teacher, labels, **options).backward()
        bank = TeacherBank.from_logits(teacher, labels, like=student.detach())
        bank = bank.push(teacher, np.eye(4)[labels].argmax(1))
        mcld_loss(student, teacher, labels, keys=bank.keys(teacher, labels)).backward()


def test_float64_elsewhere() -> None:
    """A Python number is not rounded before it is known what it meets."""
    assert ops.asarray(0.1, torch.zeros(1, device="meta")).dtype is torch.float64
    assert ops.asarray(np.zeros(2), torch.zeros(1)).dtype is torch.float64

"""What blocks promise to autograd: no autocast inside, inference-mode teachers, no stale inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.formulas.similarity import SIMILARITIES
from tests.tolerance import assert_gradient

BLOCKS = [3, None]


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(8, 50, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher, torch.arange(8) % 3


def gradient(config: MCLDConfig, second: bool = False) -> np.ndarray:
    """Return the gradient, or a product with the second derivative."""
    student, teacher, labels = batch()
    loss = mcld_loss(student, teacher, labels, config=config)
    (first,) = torch.autograd.grad(loss, student, create_graph=second)
    if second:
        (first,) = torch.autograd.grad(first.square().sum(), student)
    return first.numpy()


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("block_size", BLOCKS)
def test_autocast_narrows_neither_the_value_nor_a_derivative(
    block_size: int | None, second: bool
) -> None:
    """With backward inside the region the plain form was off by .5 %."""
    config = MCLDConfig(block_size=block_size)
    expected = gradient(config, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradient(config, second)
    assert_gradient(found, expected, "float32", scale=10.0)


@pytest.mark.parametrize("block_size", BLOCKS)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_teacher_of_inference_mode(similarity: str, block_size: int | None) -> None:
    student, teacher, labels = batch()
    config = MCLDConfig(similarity=similarity, block_size=block_size, weight_ce=0.1)
    expected = torch.autograd.grad(mcld_loss(student, teacher, labels, config=config), student)
    with torch.inference_mode():
        teacher, labels = teacher.clone(), labels.clone()
        weight = torch.ones(8)
    assert teacher.is_inference()
    loss = mcld_loss(student, teacher, labels, config=config, sample_weight=weight)
    found = torch.autograd.grad(loss, student)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("block_size", BLOCKS)
def test_a_teacher_changed_before_a_second_derivative_is_an_error(block_size: int | None) -> None:
    """The second derivative looks at it again: it was wrong in silence."""
    student, teacher, labels = batch()
    config = MCLDConfig(block_size=block_size, similarity="dot")
    loss = mcld_loss(student, teacher, labels, config=config)
    teacher.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, student, create_graph=True)


@pytest.mark.parametrize("block_size", BLOCKS)
def test_under_activation_checkpointing(block_size: int | None) -> None:
    config = MCLDConfig(block_size=block_size)
    student, teacher, labels = batch()

    def loss(student: Any) -> Any:
        return mcld_loss(2.0 * student, teacher, labels, config=config)

    expected = torch.autograd.grad(loss(student), student)
    found = torch.autograd.grad(checkpoint(loss, student, use_reentrant=False), student)
    torch.testing.assert_close(found, expected)

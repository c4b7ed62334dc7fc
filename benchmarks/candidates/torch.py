"""Candidates in PyTorch: forward and backward of one loss on given logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.measure import LIMIT, Shape
from mcld_core import (
    MCLDConfig,
    TeacherKeys,
    dist_loss,
    dkd_loss,
    instance_wise,
    kd_loss,
    mcld_loss,
    nkd_loss,
    rld_loss,
    ttm_loss,
)
from tests.oracles import handwritten

PACKAGES = ["torch"]


def inputs(shape: Shape, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    """Return the student's logits, and logits and labels of all keys, the batch's first."""
    torch.manual_seed(0)
    # as a model's activations would: once such a block was freed, the C library keeps the memory
    # of smaller ones instead of asking the system for each anew
    torch.ones(2**23 - 2**12)
    batch, keys, classes = shape
    logits = 4 * torch.randn(keys, classes, device=device)
    labels = torch.randint(classes, (keys,), device=device)
    return torch.randn(batch, classes, device=device, requires_grad=True), logits, labels


@torch.no_grad()
def limit(student: torch.Tensor, ready: torch.Tensor) -> None:
    """Do what no contrast can do without."""
    torch.exp(student @ ready.T) @ ready


def trained(student: torch.Tensor, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Return a call of a loss, forward and backward."""

    def run() -> None:
        loss().backward()
        student.grad = None

    return run


def by_library(shape: Shape, libraries: dict[str, Any]) -> dict[str, Callable[[], None]]:
    """Return forward and backward of each library's loss, and the limit."""
    student, logits, labels = inputs(shape)
    calls: dict[str, Callable[[], None]] = {LIMIT: partial(limit, student, logits.softmax(1))}
    for name, library in libraries.items():
        keys = None if shape.keys == shape.batch else library.TeacherKeys(logits, labels)
        own = logits[: shape.batch], labels[: shape.batch]
        calls[name] = trained(student, partial(library.mcld_loss, student, *own, keys=keys))
    return calls


def candidates(shape: Shape, device: str, threads: int, compiled: bool = True) -> dict[str, Any]:
    """Return name → call; each call ends when its gradient is there."""
    torch.set_num_threads(threads)
    batch, keys, _ = shape
    student, key_logits, key_labels = inputs(shape, device)
    teacher, labels, contrast = key_logits[:batch], key_labels[:batch], None
    ready = key_logits.softmax(1)
    if keys != batch:
        contrast = TeacherKeys(key_logits, key_labels)
        stored = contrast._replace(logits=None, probabilities=ready)
    backward = partial(trained, student)

    def mcld(keys: Any = contrast, **settings: Any) -> Callable[[], torch.Tensor]:
        config = MCLDConfig(**settings)
        return lambda: mcld_loss(student, teacher, labels, config=config, keys=keys)

    found: dict[str, Callable[[], Any]] = {
        LIMIT: partial(limit, student, ready),
        "mcld_loss": backward(mcld()),
        "mcld_loss, plain form": backward(mcld(block_size=None)),
        "three terms by hand": backward(
            lambda: handwritten.mcld_loss(student, teacher, labels, key_logits, key_labels)
        ),
        "one InfoNCE by hand": backward(
            lambda: handwritten.instance_wise(student, teacher, labels, key_logits, key_labels)
        ),
        "instance_wise": backward(lambda: instance_wise(student, teacher, labels, keys=contrast)),
    }
    if contrast is not None:
        found["mcld_loss, keys ready"] = backward(mcld(stored))
    found |= {name: backward(run) for name, run in _baselines(student, teacher, labels).items()}
    if compiled:
        loss = torch.compile(mcld_loss, fullgraph=True, dynamic=False)
        found["mcld_loss, torch.compile"] = backward(
            lambda: loss(student, teacher, labels, keys=contrast)
        )
    if device == "cuda":
        return {name: _synchronised(run) for name, run in found.items()}
    return found


def _baselines(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor
) -> dict[str, Callable[[], torch.Tensor]]:
    """The cross-entropy and the baselines."""
    two = {
        "one KD loss by hand": handwritten.kd_loss,
        "kd_loss": kd_loss,
        "kd_loss, standardize": partial(kd_loss, temperature=2.0, standardize=True),
        "kd_loss, reverse": partial(kd_loss, divergence="reverse"),
        "kd_loss, jsd": partial(kd_loss, divergence="jsd"),
        "dist_loss": dist_loss,
        "ttm_loss": ttm_loss,
    }
    three = {"dkd_loss": dkd_loss, "nkd_loss": nkd_loss, "rld_loss": rld_loss}
    found = {name: partial(loss, student, teacher) for name, loss in two.items()}
    found |= {name: partial(loss, student, teacher, labels) for name, loss in three.items()}
    return found | {"cross-entropy": partial(F.cross_entropy, student, labels)}


def _synchronised(run: Callable[[], Any]) -> Callable[[], Any]:
    def wait() -> None:
        run()
        torch.cuda.synchronize()

    return wait

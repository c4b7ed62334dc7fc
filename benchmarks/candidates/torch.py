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

PACKAGES = ["torch", "pytorch-metric-learning"]


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
    batch, keys, classes = shape
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

    large = batch * classes > 10_000_000
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
    if keys == batch and not large:
        found |= {name: backward(run) for name, run in _peers(student, teacher, labels).items()}
    if device == "cuda":
        return {name: _synchronised(run) for name, run in found.items()}
    return found


def _baselines(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor
) -> dict[str, Callable[[], torch.Tensor]]:
    """Each baseline beside the same formula by hand."""
    two, three = (student, teacher), (student, teacher, labels)
    return {
        "cross-entropy": lambda: F.cross_entropy(student, labels),
        "one KD loss by hand": lambda: handwritten.kd_loss(*two),
        "kd_loss": lambda: kd_loss(*two),
        "LSKD by hand": lambda: handwritten.lskd_loss(*two),
        "kd_loss, standardize": lambda: kd_loss(*two, temperature=2.0, standardize=True),
        "reverse KL by hand": lambda: handwritten.reverse_kl(*two),
        "kd_loss, reverse": lambda: kd_loss(*two, divergence="reverse"),
        "JSD by hand": lambda: handwritten.jsd(*two),
        "kd_loss, jsd": lambda: kd_loss(*two, divergence="jsd"),
        "DKD by hand": lambda: handwritten.dkd_loss(*three),
        "dkd_loss": lambda: dkd_loss(*three),
        "DIST by hand": lambda: handwritten.dist_loss(*two),
        "dist_loss": lambda: dist_loss(*two),
        "NKD by hand": lambda: handwritten.nkd_loss(*three),
        "nkd_loss": lambda: nkd_loss(*three),
        "WTTM by hand": lambda: handwritten.ttm_loss(*two),
        "ttm_loss": lambda: ttm_loss(*two),
        "RLD by hand": lambda: handwritten.rld_loss(*three),
        "rld_loss": lambda: rld_loss(*three),
    }


def _peers(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Other libraries' losses on the same rows; embeddings are the logits."""
    from pytorch_metric_learning.losses import NTXentLoss, SupConLoss

    own = torch.arange(len(student), device=student.device)

    def clip_loss() -> torch.Tensor:
        s, t = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
        return 0.5 * (F.cross_entropy(10 * s @ t.T, own) + F.cross_entropy(10 * t @ s.T, own))

    supcon, ntxent = SupConLoss(temperature=0.1), NTXentLoss(temperature=0.1)
    # copies: of the same tensor as `ref_labels` these losses leave out each row's own reference
    same, own_again = labels.clone(), own.clone()

    def supcon_loss() -> torch.Tensor:
        return supcon(student, labels, ref_emb=teacher, ref_labels=same)

    def ntxent_loss() -> torch.Tensor:
        return ntxent(student, own, ref_emb=teacher, ref_labels=own_again)

    log_p = (10 * F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).T).log_softmax(1)
    positives = F.normalize((labels[:, None] == labels).to(log_p.dtype), p=1, dim=1)
    assert_same("SupConLoss", supcon_loss(), -(positives * log_p).sum(1).mean(), student)
    found = {"CLIP loss formula": clip_loss, "pytorch-metric-learning SupConLoss": supcon_loss}
    if len(student) <= 512:  # it pairs each positive with all negatives: memory for batch³ numbers
        assert_same("NTXentLoss", ntxent_loss(), -log_p.diagonal().mean(), student)
        found["pytorch-metric-learning NTXentLoss"] = ntxent_loss
    return found


def assert_same(
    name: str, found: torch.Tensor, expected: torch.Tensor, student: torch.Tensor
) -> None:
    """Raise AssertionError unless a peer's value and gradient are those of the formula."""
    pair = (found, expected)
    gradients = (torch.autograd.grad(x, student, retain_graph=True)[0] for x in pair)
    message = f"{name} does not compute what is timed"
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-6, msg=message)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6, msg=message)


def _synchronised(run: Callable[[], Any]) -> Callable[[], Any]:
    def wait() -> None:
        run()
        torch.cuda.synchronize()

    return wait

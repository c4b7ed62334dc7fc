"""`gather_keys` and `MCLDLoss` on two and three gloo processes equal one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.torch import MCLDLoss, distributed, gather_keys
from tests.distributed.replicas import assert_all_equal_one_process, joined_batches, wrong_arguments
from tests.distributed.steps import (
    BANK,
    CLASSES,
    PRIOR,
    TOTAL_STEPS,
    join,
    make_model,
    make_steps,
    measured,
)
from tests.frameworks import Framework, only
from tests.processes import torchrun

TORCH = pytest.mark.parametrize("backend", only("torch"), indirect=True)


def run(ranks: int, out: Path) -> dict[str, np.ndarray]:
    """Run the worker on so many ranks and return what it found."""
    words = ("-m", "tests.distributed.torch_worker", out)
    worker = torchrun(ranks, *words, timeout=240, PYTHONWARNINGS="error")
    assert worker.returncode == 0, worker.stdout + worker.stderr
    return dict(np.load(out))


def one_process(ranks: int, in_turn: bool) -> tuple[list[float], np.ndarray, MCLDLoss]:
    """Train on the joined batches; return losses, weights and the loss with its bank."""
    model = make_model()
    options = {"total_steps": TOTAL_STEPS, "bank_size": BANK, "classes": CLASSES}
    loss_function = MCLDLoss(**options, class_prior=PRIOR)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in make_steps(ranks):
        inputs, teacher, labels, where, index = join(step, in_turn)
        optimizer.zero_grad()
        loss = loss_function(model(inputs), teacher, labels, where=where, index=index)
        loss.backward()
        optimizer.step()
        loss_function.step()
        losses.append(loss.item())
    weights = torch.cat([p.detach().ravel() for p in model.parameters()]).numpy()
    return losses, weights, loss_function


@TORCH
@pytest.mark.parametrize("ranks", [2, 3])
def test_equals_one_process(backend: Framework, ranks: int, tmp_path: Path) -> None:
    found = run(ranks, tmp_path / "found.npz")
    assert_all_equal_one_process(found, ranks, backend)

    for name, sums in measured([join(parts) for parts in make_steps(ranks)]).items():
        assert sums.sum() > 0, name
        np.testing.assert_allclose(found[name], sums.numpy(), rtol=1e-6, err_msg=name)
    for wrapper, in_turn in (("ddp", True), ("fsdp", False))[: 2 if ranks == 2 else 1]:
        losses, weights, loss_function = one_process(ranks, in_turn)
        np.testing.assert_allclose(found[f"{wrapper}/losses"], losses, rtol=1e-5)
        np.testing.assert_allclose(found[f"{wrapper}/weights"], weights, rtol=1e-5, atol=1e-5)
        for number, buffer in enumerate(loss_function.bank):
            np.testing.assert_array_equal(found[f"{wrapper}/bank{number}"], buffer.numpy())
    if ranks == 2:
        expected, _ = joined_batches(2)[0].expected(backend)
        np.testing.assert_allclose(found["fullgraph"], expected, rtol=1e-6)


@TORCH
def test_without_a_process_group(backend: Framework) -> None:
    student, teacher = torch.eye(4), 3 * torch.eye(4)
    labels, weight = torch.tensor([0, 1, -100, 3]), torch.tensor([1.0, 0.5, 9.0, 2.0])
    keys = gather_keys(teacher, labels, sample_weight=weight)
    assert keys.normalizer == 3.5
    found = mcld_loss(student, teacher, labels, keys=keys, sample_weight=weight)
    expected = mcld_loss(student, teacher, labels, sample_weight=weight)
    torch.testing.assert_close(found, expected)
    assert gather_keys(teacher.double()).normalizer.dtype == torch.float64


@TORCH
def test_errors(backend: Framework) -> None:
    logits = torch.ones(3, 4)
    config = MCLDConfig(category_contrast="columns")
    with pytest.raises(ValueError, match="'columns' cannot be used with gathered keys"):
        mcld_loss(logits, logits, config=config, keys=gather_keys(logits))
    for error, text, arguments in wrong_arguments(torch.tensor):
        with pytest.raises(error, match=f"gather_keys: {text}"):
            gather_keys(**arguments)
    with pytest.raises(ValueError, match="labels is on meta and teacher_logits on cpu"):
        gather_keys(logits, torch.zeros(3, dtype=torch.int64, device="meta"))


@TORCH
def test_small_integer_labels(backend: Framework) -> None:
    """In uint8 the -100 of ignore_index is 156."""
    keys = gather_keys(torch.zeros(2, 200), torch.tensor([156, 1], dtype=torch.uint8))
    assert keys.where.tolist() == [True, True]
    assert keys.labels.tolist() == [156, 1]
    assert keys.normalizer == 2


@TORCH
def test_plain_arrays_go_to_the_device_of_the_tensors(backend: Framework) -> None:
    """The other device is torch's storage-less one; beside a student its device counts."""
    logits, labels = np.ones((3, 4), "float32"), torch.zeros(3, dtype=torch.int64, device="meta")
    assert gather_keys(logits, labels).logits.device.type == "meta"
    beside = None, None, None
    student = torch.ones(3, 4, device="meta")
    given = {"student_and_progress": (student, 1.0)}
    keys, _ = distributed.gather_with_index(logits, beside, None, -100, None, **given)
    assert keys.logits.device.type == "meta"

"""What MCLDLoss says about its first steps: once, on a CPU, in train mode, naming the cure."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from mcld_core.adapters import first_look
from mcld_core.config import MCLDConfig
from mcld_core.torch import MCLDLoss

ROWS, CLASSES = 6, 4


def logits(seed: int) -> torch.Tensor:
    """Return rows of logits."""
    return 3 * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(seed))


def silent(call: Any) -> None:
    """Call what must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call()


def nan_rows() -> torch.Tensor:
    rows = logits(0)
    rows[2, 1] = torch.nan
    return rows


@pytest.mark.parametrize(
    ("student", "teacher", "text"),
    [
        (logits(0), logits(1).softmax(1), "teacher_logits is ≥ 0 and sums to 1.*Leave out the sof"),
        (logits(0).softmax(1), logits(1), "student_logits is ≥ 0 .*classifier_activation=None"),
        (nan_rows(), logits(1), "student_logits has nan in row 2, class 1.*Mend what"),
        (logits(0), nan_rows(), "teacher_logits has nan in row 2, class 1"),
    ],
    ids=["teacher", "student", "student's NaN", "teacher's NaN"],
)
def test_a_doubt_is_said_once(student: Any, teacher: Any, text: str) -> None:
    loss_function = MCLDLoss()
    with pytest.warns(UserWarning, match=f"MCLDLoss: .*{text}") as found:
        loss_function(student, teacher)
    assert [str(warning.filename) for warning in found] == [__file__]
    silent(lambda: loss_function(student, teacher))


def test_a_doubt_that_is_an_error_moves_no_bank() -> None:
    loss_function = MCLDLoss(bank_size=4, classes=logits(0).shape[1])
    with pytest.raises(UserWarning, match="teacher_logits"):
        silent(lambda: loss_function(logits(0), logits(1).softmax(1)))
    assert not loss_function.bank.where.any()


def test_a_good_start_is_silent_and_the_last_look() -> None:
    loss_function = MCLDLoss()
    silent(lambda: loss_function(logits(0).requires_grad_(), logits(1).requires_grad_()))
    silent(lambda: loss_function(logits(0).softmax(1), logits(1).softmax(1)))


def test_where_it_does_not_look() -> None:
    """In eval mode, compiled, on another device, in dropped rows; and in no_grad."""
    student, teacher = logits(0), logits(1).softmax(1)
    silent(lambda: MCLDLoss().eval()(student, teacher))
    compiled = torch.compile(MCLDLoss(), backend="eager", fullgraph=True)
    silent(lambda: compiled(student, teacher))
    rows = student.to("meta"), teacher.to("meta"), None, None
    assert not first_look("loss", *rows, MCLDConfig(), 1)
    where = torch.arange(ROWS) != 2
    silent(lambda: MCLDLoss()(nan_rows(), logits(1), where=where))
    with torch.no_grad():
        silent(lambda: MCLDLoss()(student, nn.Parameter(logits(1))))


def test_it_can_be_copied_and_saved() -> None:
    loss_function = MCLDLoss(total_steps=3)
    model = nn.Linear(5, CLASSES)
    loss_function(model(torch.ones(ROWS, 5)), logits(1))
    copy.deepcopy(loss_function)
    torch.save(loss_function, io.BytesIO())


def train(loss_function: MCLDLoss, *, steps: int, accumulate: int = 1, count: bool = False) -> None:
    """Train a model, and forget to count unless told to."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        for seed in range(accumulate):
            inputs = torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(seed))
            loss_function(model(inputs), logits(1)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if count:
            loss_function.step()


def test_a_step_that_is_never_called_is_said() -> None:
    silent(lambda: train(MCLDLoss(total_steps=10), steps=9, accumulate=11))
    text = r"MCLDLoss: step\(\) needs a call .* got none in 100 training batches"
    with pytest.warns(UserWarning, match=text) as found:
        train(MCLDLoss(total_steps=10), steps=12, accumulate=11)
    assert len(found) == 1
    assert found[0].filename == __file__


def test_counted_steps_are_silent() -> None:
    silent(lambda: train(MCLDLoss(total_steps=10), steps=4, accumulate=3, count=True))
    silent(lambda: train(MCLDLoss(), steps=4))  # no ramp: nothing to count

"""EMATeacher in PyTorch: the average, its modes, its checkpoint."""

from __future__ import annotations

import pytest
import torch

from mcld_core.torch.ema import EMATeacher


def student() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    )


def move(model: torch.nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by
    model(torch.randn(5, 3))  # moves the batch statistics


def test_weights_are_averaged_and_counters_copied() -> None:
    model = student().train()
    start = model[0].weight.detach().clone()
    teacher = EMATeacher(model, decay=0.75, warm_up=False)
    for _ in range(2):
        move(model, 1.0)
        teacher.update(model)
    expected = start + 0.75 * 0.25 * 1.0 + 0.25 * 2.0
    torch.testing.assert_close(teacher.model[0].weight, expected)
    assert int(teacher.model[1].num_batches_tracked) == 2
    torch.testing.assert_close(start + 2.0, model[0].weight.detach())


def test_the_first_update_forgets_the_first_weights() -> None:
    model = student()
    teacher = EMATeacher(model, decay=0.999)
    start = teacher.model[0].weight.clone()
    move(model, 1.0)
    teacher.update(model)
    torch.testing.assert_close(teacher.model[0].weight, start + 0.9)


def test_it_stays_in_eval_mode_without_gradient() -> None:
    holder = torch.nn.ModuleList([EMATeacher(student())]).train()
    assert not any(module.training for module in holder[0].modules())
    output = holder[0](torch.ones(2, 3, requires_grad=True))
    assert not output.requires_grad
    assert not any(parameter.requires_grad for parameter in holder.parameters())


def test_the_checkpoint_holds_average_and_count() -> None:
    model = student()
    teacher = EMATeacher(model)
    move(model, 1.0)
    teacher.update(model)
    other = EMATeacher(student())
    other.load_state_dict(teacher.state_dict())
    for one in (teacher, other):
        move(model, 1.0)
        one.update(model)
        move(model, -1.0)
    for a, b in zip(teacher.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert int(other.updates) == 2


@pytest.mark.parametrize("cast_first", [True, False], ids=["student", "teacher"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_is_averaged_in_float32(
    dtype: torch.dtype, cast_first: bool
) -> None:
    model = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(model.weight, 1.0)
    if cast_first:
        teacher = EMATeacher(model.to(dtype), warm_up=False)
    else:
        teacher = EMATeacher(model, warm_up=False).to(dtype)
        model = model.to(dtype)
    torch.nn.init.constant_(model.weight, 1.125)
    for _ in range(100):
        teacher.update(model)
    expected = torch.full((2, 3), 1.125 - 0.125 * 0.999**100)
    torch.testing.assert_close(teacher.precise.weight, expected)
    torch.testing.assert_close(teacher.model.weight, expected.to(dtype), rtol=0, atol=0)
    assert teacher(torch.ones(1, 3, dtype=dtype)).dtype == dtype

    other = EMATeacher(torch.nn.Linear(3, 2).to(dtype), warm_up=False)
    other.load_state_dict(teacher.state_dict())
    for one in (teacher, other):
        one.update(model)
    assert torch.equal(teacher.precise.weight, other.precise.weight)
    assert int(other.updates) == 101


def test_a_wrong_decay_is_named() -> None:
    with pytest.raises(ValueError, match=r"decay needs a number in 0 … 1; got 2"):
        EMATeacher(student(), decay=2)

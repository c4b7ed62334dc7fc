"""Methods against their formulas."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch
from recipes.configs import parse_options
from recipes.methods import METHODS, baseline_loss
from recipes.options import METHOD_NAMES, build_parser, mcld_config
from torch.nn import functional

from mcld_core import dist_loss, kd_loss, mcld_loss, nkd_loss, rld_loss, ttm_loss

CE = functional.cross_entropy


def options(method: str, *loss: str) -> argparse.Namespace:
    words = ["--dataset", "cifar100", "--method", method, *(["--loss", *loss] if loss else [])]
    return parse_options(build_parser("test"), words)


def logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return student, teacher, torch.arange(6) % 5


def kl(teacher: torch.Tensor, student: torch.Tensor, t: float) -> torch.Tensor:
    student, teacher = torch.log_softmax(student / t, 1), torch.softmax(teacher / t, 1)
    return t * t * functional.kl_div(student, teacher, reduction="batchmean")


def test_kd_is_hinton_s_with_the_published_weights() -> None:
    student, teacher, labels = logits()
    loss = baseline_loss(options("kd"), CE)(student, teacher, labels, 0.5)
    torch.testing.assert_close(loss, 0.1 * CE(student, labels) + 0.9 * kl(teacher, student, 4.0))
    loss = baseline_loss(options("kd", "temperature=2", "weight=3", "weight_ce=0"), CE)
    value = loss(student, teacher, labels, 0.5)
    torch.testing.assert_close(value, 3 * kl(teacher, student, 2.0))


def test_logit_standardisation_ignores_scale_and_shift() -> None:
    student, teacher, labels = logits()
    loss = baseline_loss(options("kd-ls", "weight_ce=0"), CE)
    value = loss(student, teacher, labels, 0.5)
    moved = loss(3 * student + 1, 0.5 * teacher - 2, labels, 0.5)
    torch.testing.assert_close(value, moved, rtol=1e-5, atol=0)
    z = [(x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in (student, teacher)]
    torch.testing.assert_close(value, 9 * kl(z[1], z[0], 2.0), rtol=1e-5, atol=0)


def test_dkd_grows_over_its_warm_up_only() -> None:
    student, teacher, labels = logits()
    loss = baseline_loss(options("dkd"), CE)
    ce = CE(student, labels)
    torch.testing.assert_close(loss(student, teacher, labels, 0.0), ce)
    late = loss(student, teacher, labels, 0.9)
    assert late > ce
    half = loss(student, teacher, labels, 10 / 240)
    torch.testing.assert_close(half, ce + 0.5 * (late - ce))
    part = torch.tensor(10 / 240)  # a tensor, as a compiled step has it
    torch.testing.assert_close(loss(student, teacher, labels, part), half, rtol=1e-6, atol=0)


def test_the_command_line_knows_the_methods_of_the_table() -> None:
    assert list(METHOD_NAMES) == list(METHODS)


def test_mcld_has_a_configuration_and_the_others_none() -> None:
    config = mcld_config(options("mcld-ce", "weight_sample=1"))
    assert config is not None
    assert (config.weight_ce, config.weight_sample) == (1.0, 1.0)
    assert mcld_config(options("kd")) is None
    assert mcld_config(options("ce")) is None


def test_cross_entropy_needs_no_teacher() -> None:
    student, _, labels = logits()
    calls: list[Any] = []

    def counted(*pair: Any) -> Any:
        calls.append(pair)
        return CE(*pair)

    loss = baseline_loss(options("ce"), counted)(student, None, labels, 0.0)
    torch.testing.assert_close(loss, CE(student, labels))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("method", "weight", "weight_ce", "theirs"),
    [
        (
            "kd-reverse",
            1.0,
            0.0,
            lambda s, t, y: kd_loss(s, t, divergence="reverse", temperature=1),
        ),
        ("kd-jsd", 1, 0, lambda s, t, y: kd_loss(s, t, temperature=1, divergence="jsd")),
        ("dist", 2.0, 1.0, lambda s, t, y: dist_loss(s, t, temperature=4)),
        ("nkd", 1.0, 1.0, lambda s, t, y: nkd_loss(s, t, y, gamma=1.5, temperature=1)),
        ("ttm", 45.0, 1.0, lambda s, t, y: ttm_loss(s, t, gamma=0.1, weighted=False)),
        ("wttm", 4.0, 1.0, lambda s, t, y: ttm_loss(s, t, gamma=0.2)),
        ("rld", 1.0, 1.0, lambda s, t, y: rld_loss(s, t, y, alpha=1, beta=8, temperature=4)),
    ],
)
def test_a_method_has_its_authors_weights(
    method: str, weight: float, weight_ce: float, theirs: Any
) -> None:
    student, teacher, labels = logits()
    found = baseline_loss(options(method), CE)(student, teacher, labels, 1.0)
    wanted = weight_ce * CE(student, labels) + weight * theirs(student, teacher, labels)
    torch.testing.assert_close(found, wanted)


def test_rld_grows_over_its_warm_up() -> None:
    student, teacher, labels = logits()
    loss = baseline_loss(options("rld"), CE)
    torch.testing.assert_close(loss(student, teacher, labels, 0.0), CE(student, labels))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_finite_loss_and_gradient(method: str) -> None:
    student, teacher, labels = logits()
    student.requires_grad_()
    chosen = options(method)
    config = mcld_config(chosen)
    if config is not None:
        loss = mcld_loss(student, teacher, labels, config=config)
    else:
        loss = baseline_loss(chosen, CE)(student, teacher, labels, 0.5)
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() > 0


def test_a_setting_of_every_kind_reaches_the_library_s_function() -> None:
    student, teacher, labels = logits()
    loss = baseline_loss(options("kd", "divergence=reverse", "weight=1", "weight_ce=0"), CE)
    wanted = kd_loss(student, teacher, temperature=4.0, divergence="reverse")
    torch.testing.assert_close(loss(student, teacher, labels, 0.5), wanted)
    loss = baseline_loss(options("ttm", "weighted=False", "weight=1", "weight_ce=0"), CE)
    wanted = ttm_loss(student, teacher, weighted=False)
    torch.testing.assert_close(loss(student, teacher, labels, 0.5), wanted)

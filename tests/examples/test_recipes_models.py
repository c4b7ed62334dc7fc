"""Methods against their formulas."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from recipes.methods import METHODS, method_loss, standardise
from recipes.options import build_parser, parse_options
from torch.nn import functional

CE = functional.cross_entropy


def options(*argv: str) -> argparse.Namespace:
    return parse_options(build_parser("test"), ["--dataset", "cifar100", *argv])


def logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return student, teacher, torch.arange(6) % 5


def kl(teacher: torch.Tensor, student: torch.Tensor, t: float) -> torch.Tensor:
    return (
        t
        * t
        * functional.kl_div(
            torch.log_softmax(student / t, 1), torch.softmax(teacher / t, 1), reduction="batchmean"
        )
    )


def test_kd_is_hinton_s_with_the_published_weights() -> None:
    student, teacher, labels = logits()
    loss, terms = method_loss("kd", options(), CE)(student, teacher, labels, 0.5)
    expected = 0.1 * functional.cross_entropy(student, labels) + 0.9 * kl(teacher, student, 4.0)
    torch.testing.assert_close(loss, expected)
    assert set(terms) == {"ce", "kd"}


def test_logit_standardisation_ignores_scale_and_shift() -> None:
    student, teacher, labels = logits()
    loss = method_loss("kd-ls", options("--kd-ls-weight-ce", "0"), functional.cross_entropy)
    value, _ = loss(student, teacher, labels, 0.5)
    moved, _ = loss(3 * student + 1, 0.5 * teacher - 2, labels, 0.5)
    torch.testing.assert_close(value, moved, rtol=1e-5, atol=0)
    z = [(x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in (student, teacher)]
    torch.testing.assert_close(value, 9 * kl(z[1], z[0], 2.0), rtol=1e-5, atol=0)


def test_dkd_grows_over_its_warm_up_only() -> None:
    student, teacher, labels = logits()
    loss = method_loss("dkd", options(), CE)
    start, terms = loss(student, teacher, labels, 0.0)
    torch.testing.assert_close(start, terms["ce"])
    half, _ = loss(student, teacher, labels, 10 / 240)
    torch.testing.assert_close(half, terms["ce"] + 0.5 * terms["dkd"])
    late, _ = loss(student, teacher, labels, 0.9)
    torch.testing.assert_close(late, terms["ce"] + terms["dkd"])


def test_mcld_without_cross_entropy_and_with() -> None:
    student, teacher, labels = logits()
    plain, terms = method_loss("mcld", options(), CE)(student, teacher, labels, 0.5)
    expected = terms["instance"] + 0.25 * terms["sample"] + 0.5 * terms["category"]
    torch.testing.assert_close(plain, expected)
    joint, _ = method_loss("mcld-ce", options(), CE)(student, teacher, labels, 0.5)
    torch.testing.assert_close(joint, plain + functional.cross_entropy(student, labels))


def test_cross_entropy_needs_no_teacher() -> None:
    student, _, labels = logits()
    calls: list[Any] = []

    def counted(*pair: Any) -> Any:
        calls.append(pair)
        return functional.cross_entropy(*pair)

    loss, _ = method_loss("ce", options(), counted)(student, None, labels, 0.0)
    torch.testing.assert_close(loss, functional.cross_entropy(student, labels))
    assert len(calls) == 1
    assert METHODS[0] == "ce"


def test_standardised_rows_and_the_slope_of_a_constant_one() -> None:
    student, _, _ = logits()
    rows = torch.cat([student, torch.ones_like(student[:1])]).requires_grad_()
    result = standardise(rows)
    expected = (student - student.mean(1, keepdim=True)) / student.std(1, keepdim=True)
    torch.testing.assert_close(result[:-1], expected)
    assert not result[-1].any()
    result.square().sum().backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()

"""What only a compiler runs gives the same without one, where each line can be followed."""

from __future__ import annotations

import pytest
import torch

from mcld_core import mcld_loss
from mcld_core.extensions.nlp.tokens import TokenLoss
from tests import oracles
from tests.cases import bind, make_case, value_and_grad
from tests.extensions.nlp import test_token_kd
from tests.extensions.nlp.test_linear_losses import OPTIONS, agree
from tests.frameworks import Framework, only
from tests.tolerance import assert_gradient, assert_value

pytestmark = pytest.mark.parametrize("backend", only("torch"), indirect=True)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


def test_blocks(backend: Framework, traced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler has all rows at once; under autocast, which narrows nothing."""
    case, settings = make_case(141, batch=19, where=True), {"block_size": 1}
    loss = bind(backend, mcld_loss, case, "float32", settings=settings)
    call = torch.autocast("cpu", dtype=torch.bfloat16)(loss)
    found, gradient = backend.value_and_grad(call, case.student, "float32")
    assert_value(found, oracles.mcld_loss(case), "float32", oracles.scale(case))
    monkeypatch.undo()
    _, reference = value_and_grad(backend, mcld_loss, case)
    assert_gradient(gradient, reference, "float32", oracles.scale(case))


@pytest.mark.parametrize("teacher", ["top", "layer"])
def test_layers(backend: Framework, traced: None, teacher: str) -> None:
    agree(backend, teacher, OPTIONS[0])


def test_tokens_that_count(
    backend: Framework, traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler is given the first token and those that count."""
    seen, whole = [], TokenLoss.whole
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: True)
    monkeypatch.setattr(
        TokenLoss, "whole", lambda loss, rows: seen.append(len(rows.x)) or whole(loss, rows)
    )
    test_token_kd.check_gradient(backend, {"ce_weight": 0.5}, "logits")
    case = test_token_kd.make_case(82)
    counts = (case.mask & (case.labels != -100)).ravel()
    assert set(seen) == {counts.sum() + (not counts[0])}
    assert counts.sum() < counts.size - 1

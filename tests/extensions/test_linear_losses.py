"""The losses of hidden states and a last layer: those of its logits, value and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig
from mcld_core.backends import backend_for
from mcld_core.extensions.nlp import (
    TopKLogits,
    linear_token_kd_loss,
    linear_token_mcld_loss,
    token_kd_loss,
    token_mcld_loss,
)
from tests.extensions.cases import BATCH, CLASSES, TIME, SequenceCase, make_case
from tests.extensions.token_cases import expected
from tests.frameworks import Framework
from tests.tolerance import assert_gradient, assert_value

WIDTH, WIDE, SCALE = 4, 6, 20.0
TEACHERS = ["top k", "without a tail", "layer", "layer and bias"]
PRIOR = np.array([5.0, 0.0, 2.0, 1.0, 1.0])
MCLD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"weight_ce": 0.5, "weight_sample": 2.0}, {"shift": True}),
    ({"sample_target_mask": False, "target_mask": False}, {"token_contrast": 0.5}),
    ({"key_temperature": 2.0, "temperature": 0.5}, {"category": "sequence", "reduction": "sum"}),
    ({"weight_instance": 0.0, "weight_category": 0.0, "weight_sample": 1.0}, {"normalizer": 7.0}),
    ({"weight_sample": 0.0, "category_warmup": 0.0}, {"class_prior": PRIOR}),
    ({"sample_temperature": 0.5}, {"labels": None, "sequence_labels": None}),
]
KD: list[dict[str, Any]] = [
    {"temperature": 2.0, "shift": True},
    {"divergence": "reverse", "reduction": "sum"},
    {"divergence": "jsd", "mix": 0.3, "normalizer": 7.0},
]


@dataclass(frozen=True, eq=False)
class LayerCase:
    """A student's hidden states and layer in one vector, with a teacher and what it means."""

    parameters: np.ndarray
    has_bias: bool
    teacher: tuple[np.ndarray | None, ...]
    logits: SequenceCase
    """The same tokens with both sides' logits as they are defined."""

    def layer(self, parameters: Any) -> tuple[Any, Any, Any]:
        """Return hidden states, weight and bias of the vector, of any framework."""
        ops = backend_for("test", parameters)
        ends = np.cumsum([0, BATCH * TIME * WIDTH, CLASSES * WIDTH, CLASSES])
        hidden, weight, bias = (parameters[a:b] for a, b in zip(ends, ends[1:], strict=False))
        return (
            ops.reshape(hidden, (BATCH, TIME, WIDTH)),
            ops.reshape(weight, (CLASSES, WIDTH)),
            bias if self.has_bias else None,
        )


def layer_case(seed: int, teacher: str, bias: bool = True) -> LayerCase:
    """Return a case; ``teacher`` is one of `TEACHERS`."""
    rng, case = np.random.default_rng(seed), make_case(seed)
    hidden, weight = rng.standard_normal((BATCH, TIME, WIDTH)), rng.standard_normal((CLASSES, WIDTH))
    offset = rng.standard_normal(CLASSES)
    parameters = np.concatenate([hidden.ravel(), weight.ravel(), offset])
    student = hidden @ weight.T + (offset if bias else 0.0)
    if teacher.startswith("layer"):
        parts = rng.standard_normal((BATCH, TIME, WIDE)), rng.standard_normal((CLASSES, WIDE))
        logits = parts[0] @ parts[1].T
        if teacher.endswith("bias"):
            parts = (*parts, rng.standard_normal(CLASSES))
            logits = logits + parts[2]
        return LayerCase(parameters, bias, parts, case.but(student=student, teacher=logits))
    stored = TopKLogits.from_logits(case.teacher, 2)
    stored = stored if teacher == "top k" else stored._replace(tail=None)
    dense = np.asarray(stored.dense(CLASSES))
    return LayerCase(parameters, bias, stored, case.but(student=student, teacher=dense))


def bind(
    backend: Framework,
    case: LayerCase,
    losses: tuple[Callable[..., Any], Callable[..., Any]],
    options: dict[str, Any],
    dtype: str = "float64",
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return parameters → the fused loss, and → the loss of the logits."""
    given = {"labels": case.logits.labels, "attention_mask": case.logits.mask}
    if losses[0] is linear_token_mcld_loss:
        given["sequence_labels"] = case.logits.groups
    arrays = {
        name: backend.array(x, dtype) if isinstance(x, np.ndarray) else x
        for name, x in (given | options).items()
    }
    parts = tuple(backend.array(x, dtype) for x in case.teacher)
    teacher: Any = TopKLogits(*parts) if isinstance(case.teacher, TopKLogits) else parts
    dense = teacher
    if not isinstance(teacher, TopKLogits):
        dense = backend.array(case.logits.teacher, dtype)

    def fused(parameters: Any) -> Any:
        hidden, weight, bias = case.layer(parameters)
        return losses[0](hidden, weight, teacher, bias=bias, **arrays)

    def unfused(parameters: Any) -> Any:
        ops = backend_for("test", parameters)
        hidden, weight, bias = case.layer(parameters)
        rows = ops.reshape(hidden, (BATCH * TIME, WIDTH))
        logits = ops.matmul(rows, ops.matrix_transpose(weight))
        logits = logits if bias is None else logits + bias[None, :]
        return losses[1](ops.reshape(logits, (BATCH, TIME, CLASSES)), dense, **arrays)

    return fused, unfused


@pytest.fixture(params=[None, 5], ids=["one block", "blocks"])
def block_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As many tokens a block; the shapes of a test are too small for what is automatic."""
    monkeypatch.setattr(
        "mcld_core.extensions.nlp.layers.rows_of_a_block", lambda *_, **__: request.param
    )
    return request.param


def agree(
    backend: Framework,
    case: LayerCase,
    losses: Any,
    options: dict[str, Any],
    compiled: bool = False,
) -> None:
    fused, unfused = bind(backend, case, losses, options)
    value, gradient = backend.value_and_grad(unfused, case.parameters)
    fused = backend.jit(fused) if compiled else fused
    found, found_gradient = backend.value_and_grad(fused, case.parameters)
    assert_value(found, value, scale=SCALE)
    assert_gradient(found_gradient, gradient, scale=SCALE, floor=0.1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize(("settings", "options"), MCLD, ids=str)
def test_mcld_equals_that_of_the_logits(
    differentiable: Framework,
    block_rows: Any,
    settings: dict[str, Any],
    options: dict[str, Any],
    teacher: str,
    bias: bool,
) -> None:
    config = MCLDConfig(**settings, block_size=block_rows)
    losses = linear_token_mcld_loss, token_mcld_loss
    agree(differentiable, layer_case(5, teacher, bias), losses, options | {"config": config})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("options", KD, ids=str)
def test_kd_equals_that_of_the_logits(
    differentiable: Framework, block_rows: Any, options: dict[str, Any], teacher: str, bias: bool
) -> None:
    if teacher == "without a tail" and options.get("divergence") == "reverse":
        pytest.skip("infinite")
    losses = linear_token_kd_loss, token_kd_loss
    agree(differentiable, layer_case(6, teacher, bias), losses, options)

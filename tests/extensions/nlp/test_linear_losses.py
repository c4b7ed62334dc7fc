"""The losses of hidden states and a last layer: those of its logits, value and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcld_core.backends import backend_for
from mcld_core.extensions.nlp import (
    TopKLogits,
    linear_token_kd_loss,
    token_kd_loss,
)
from tests.extensions.cases import BATCH, CLASSES, TIME, SequenceCase, make_case
from tests.frameworks import Framework, crossed, only
from tests.tolerance import assert_gradient, assert_value

WIDTH, WIDE, SCALE = 4, 6, 20.0
ENDS = np.cumsum([0, BATCH * TIME * WIDTH, CLASSES * WIDTH, CLASSES]).tolist()
TEACHERS = ["top k", "without a tail", "layer", "layer and bias"]
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
        hidden, weight, bias = (parameters[a:b] for a, b in pairwise(ENDS))
        return (
            ops.reshape(hidden, (BATCH, TIME, WIDTH)),
            ops.reshape(weight, (CLASSES, WIDTH)),
            bias if self.has_bias else None,
        )


def layer_case(seed: int, teacher: str, bias: bool = True) -> LayerCase:
    """Return a case; ``teacher`` is one of `TEACHERS`."""
    rng, case = np.random.default_rng(seed), make_case(seed)
    hidden, weight = (
        rng.standard_normal((BATCH, TIME, WIDTH)),
        rng.standard_normal((CLASSES, WIDTH)),
    )
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
    options: dict[str, Any],
    dtype: str = "float64",
    losses: tuple[Callable[..., Any], Callable[..., Any]] = (linear_token_kd_loss, token_kd_loss),
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return parameters → the fused loss, and → the loss of the logits."""
    given = {"labels": case.logits.labels, "attention_mask": case.logits.mask}
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


BLOCK = 5


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens a block; the shapes of a test are too small for what is automatic."""
    monkeypatch.setattr("mcld_core.extensions.nlp.layers.rows_without_keys", lambda _: BLOCK)


def agree(
    backend: Framework,
    case: LayerCase,
    options: dict[str, Any],
    compiled: bool = False,
    **losses: Any,
) -> None:
    """Assert that the fused loss and its gradient are those of the other one."""
    fused, unfused = bind(backend, case, options, **losses)
    value, gradient = backend.value_and_grad(unfused, case.parameters)
    fused = backend.jit(fused) if compiled else fused
    found, found_gradient = backend.value_and_grad(fused, case.parameters)
    assert_value(found, value, scale=SCALE)
    assert_gradient(found_gradient, gradient, scale=SCALE, floor=0.1)


@pytest.mark.parametrize(("options", "teacher"), crossed(KD, ["top k", "layer and bias"]), ids=str)
def test_kd_equals_that_of_the_logits(
    differentiable: Framework, blocks: None, options: dict[str, Any], teacher: str
) -> None:
    agree(differentiable, layer_case(6, teacher), options)


@pytest.mark.parametrize("teacher", ["without a tail", "layer"])
def test_without_biases_and_without_blocks(differentiable: Framework, teacher: str) -> None:
    agree(differentiable, layer_case(8, teacher, bias=False), {})


@pytest.mark.parametrize("teacher", ["layer and bias", "top k"])
def test_compiled(differentiable: Framework, blocks: None, teacher: str) -> None:
    agree(differentiable, layer_case(7, teacher), {"shift": True}, compiled=True)


def test_one_value_a_token_has_its_own_gradient(differentiable: Framework, blocks: None) -> None:
    """Weights of the tokens that no sum has: a block then waits for the gradient that comes."""
    case, weights = layer_case(10, "top k"), np.random.default_rng(0).random((BATCH, TIME))
    weights = differentiable.array(weights, "float64")

    def weighted(function: Callable[..., Any]) -> Callable[..., Any]:
        def total(*arrays: Any, **options: Any) -> Any:
            values = function(*arrays, reduction="none", **options) * weights
            return backend_for("test", values).sum(values, None)

        return total

    losses = (weighted(linear_token_kd_loss), weighted(token_kd_loss))
    agree(differentiable, case, {}, losses=losses)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_in_other_dtypes(differentiable: Framework, blocks: None, dtype: str) -> None:
    """The logits of half precision are rounded once, as a layer of a model rounds them."""
    case, options = layer_case(12, "layer and bias"), {"shift": True}
    _, unfused = bind(differentiable, case, options)
    fused, _ = bind(differentiable, case, options, dtype)
    value, gradient = differentiable.value_and_grad(unfused, case.parameters)
    found, found_gradient = differentiable.value_and_grad(fused, case.parameters, dtype)
    rounding = 1.0 if dtype == "float32" else 2.0**-10 / 1e-5
    assert_value(found, value, "float32", SCALE * rounding)
    assert_gradient(found_gradient, gradient, "float32", SCALE * rounding, floor=0.1)


@given(
    seed=st.integers(0, 10**6),
    teacher=st.sampled_from(TEACHERS),
    bias=st.booleans(),
    shift=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_any_case_has_the_value_of_its_logits(
    seed: int, teacher: str, bias: bool, shift: bool
) -> None:
    case = layer_case(seed, teacher, bias)
    fused, unfused = bind(Framework(), case, {"shift": shift})
    assert_value(fused(case.parameters), unfused(case.parameters), scale=SCALE)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"weight": np.ones((5, 3))}, r"hidden and weight need shapes .*got \(4, 3, 4\) and \(5, 3\)"),
    ({"bias": np.ones(4)}, r"bias needs shape \(5,\).*got \(4,\)"),
    ({"weight": np.ones((5, 4), int)}, "weight needs a float dtype; got int64"),
    ({"teacher": np.ones((4, 3, 5))}, "teacher needs TopKLogits, or the tuple .*token_kd_loss"),
    ({"teacher": (1,)}, "got a tuple of 1"),
    ({"teacher": (np.ones((4, 3, 2)), np.ones((6, 2)))}, "same vocabulary; got 5 and 6"),
    ({"teacher": (np.ones((4, 2, 2)), np.ones((5, 2)))}, r"needs the tokens of hidden, \(4, 3\)"),
    ({"labels": np.ones((4, 3, 5))}, "With soft labels.* token_kd_loss"),
    ({"labels": np.full((4, 3), 5)}, "needs labels in 0 … 4"),
]


@pytest.mark.parametrize(("given", "text"), BAD, ids=[text for _, text in BAD])
def test_errors_say_what_to_do(no_default_backend: None, given: dict[str, Any], text: str) -> None:
    case = layer_case(13, "layer")
    hidden, weight, bias = case.layer(case.parameters)
    arguments = {"hidden": hidden, "weight": weight, "bias": bias, "teacher": case.teacher}
    with pytest.raises((ValueError, TypeError), match=text):
        linear_token_kd_loss(**(arguments | given))


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
@pytest.mark.parametrize("teacher", ["top k", "layer"])
def test_no_tensor_of_torch_holds_the_logits(backend: Framework, teacher: str) -> None:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    tokens, vocabulary, width, largest = 256, 40_000, 3, 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for x in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(x, torch.Tensor):
                    largest = max(largest, x.numel())
            return result

    hidden, theirs = torch.randn(2, 1, tokens, width).requires_grad_()
    weight = torch.randn(vocabulary, width, requires_grad=True)
    labels = torch.arange(tokens)[None, :]
    given: Any = (theirs.detach(), weight.detach())
    if teacher == "top k":
        given = TopKLogits(torch.randn(1, tokens, 2), labels[:, :, None] * 2 + torch.arange(2))
    with Sizes():
        linear_token_kd_loss(hidden, weight, given, labels).backward()
    assert vocabulary * 64 <= largest < vocabulary * tokens / 2
    assert weight.grad is not None


@pytest.mark.parametrize("backend", only("jax"), indirect=True)
def test_a_sparse_product_of_jax_by_pieces(
    backend: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jax

    from mcld_core.backends import jax as ops

    rng = np.random.default_rng(0)
    x, values = (backend.array(rng.random(shape)) for shape in ((3, 6), (5, 2)))
    places = backend.array(rng.permuted([[0, 2, 4, 5]] * 5, axis=1)[:, :2])

    def total(x: Any, values: Any) -> Any:
        return (ops.sparse_matmul(x, ops.sparse(values, places, 6)) ** 2).sum()

    gradients = jax.grad(total, (0, 1))
    whole = total(x, values), *gradients(x, values)
    monkeypatch.setattr(ops, "_GATHERED", 12)
    for found, reference in zip((total(x, values), *gradients(x, values)), whole, strict=True):
        assert_value(found, reference)


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_derivative(backend: Framework, blocks: None, reduction: str) -> None:
    import torch

    case = layer_case(14, "top k")
    found = []
    for function in bind(backend, case, {"reduction": reduction}):
        parameters = torch.tensor(case.parameters, requires_grad=True)
        loss = function(parameters).sum()
        (first,) = torch.autograd.grad(loss, parameters, create_graph=True)
        found.append(torch.autograd.grad((first**2).sum(), parameters)[0].numpy())
    assert_gradient(*found, scale=SCALE, floor=0.1)

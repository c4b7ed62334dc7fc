"""`linear_token_kd_loss`: value and gradients of the logits that it never holds."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mcld_core.backends import backend_for
from mcld_core.extensions.nlp import LastLayer, TopKLogits, linear_token_kd_loss, token_kd_loss
from tests.extensions.cases import BATCH, CLASSES, TIME, make_case
from tests.extensions.token_oracles import token_kd
from tests.frameworks import Framework, only
from tests.tolerance import assert_gradient, assert_value

WIDTH, WIDE, SCALE = 4, 6, 20.0
ENDS = np.cumsum([0, BATCH * TIME * WIDTH, CLASSES * WIDTH, CLASSES]).tolist()
TEACHERS = ["logits", "top", "no tail", "layer"]
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 2.0, "shift": True, "ce_weight": 0.5},
    {"divergence": "reverse", "reduction": "sum", "softcap": 3.0},
    {"divergence": "jsd", "mix": 0.3, "normalizer": 7.0, "scale": 0.5, "softcap": 2.0},
    {"ce_weight": 1.0, "scale": 2.0},
]

pytestmark = pytest.mark.filterwarnings("ignore:TopKLogits.*of the teacher's mass")


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's blocks of three rows, of which the loss takes two at a time."""
    monkeypatch.setattr("mcld_core.extensions.nlp.tokens._ENTRIES", 2 * CLASSES)
    monkeypatch.setattr("mcld_core.extensions.nlp.tokens._LAYER_ENTRIES", 1)
    monkeypatch.setattr("mcld_core.extensions.nlp.tokens._LAYER_ROWS", 3)


def layer_of(parameters: Any, bias: bool) -> tuple[Any, Any, Any]:
    """Return hidden states, weight and bias of one vector, of any framework."""
    ops = backend_for("test", parameters)
    hidden, weight, offset = (parameters[a:b] for a, b in pairwise(ENDS))
    hidden = ops.reshape(hidden, (BATCH, TIME, WIDTH))
    return hidden, ops.reshape(weight, (CLASSES, WIDTH)), offset if bias else None


def logits_of(parameters: Any, bias: bool, softcap: float | None, scale: float) -> Any:
    """Return the logits of that vector, by their definition."""
    ops = backend_for("test", parameters)
    hidden, weight, offset = layer_of(parameters, bias)
    rows = ops.reshape(hidden, (BATCH * TIME, WIDTH))
    logits = ops.matmul(rows, ops.matrix_transpose(weight))
    logits = scale * (logits if offset is None else logits + offset[None, :])
    if softcap is not None:
        logits = softcap * ops.tanh(logits / softcap)
    return ops.reshape(logits, (BATCH, TIME, CLASSES))


def teachers(backend: Framework, kind: str, dtype: str = "float64") -> tuple[Any, Any]:
    """Return a teacher for the fused loss, and the same one for that of logits."""
    case, rng = make_case(6), np.random.default_rng(6)
    if kind == "layer":
        parts = (
            rng.standard_normal((BATCH, TIME, WIDE)),
            rng.standard_normal((CLASSES, WIDE)),
            rng.standard_normal(CLASSES),
        )
        logits = 3.0 * np.tanh(0.5 * (parts[0] @ parts[1].T + parts[2]) / 3.0)
        layer = LastLayer(*(backend.array(x, dtype) for x in parts), softcap=3.0, scale=0.5)
        return layer, backend.array(logits, dtype)
    if kind == "logits":
        return (backend.array(case.teacher, dtype),) * 2
    stored = TopKLogits.from_logits(case.teacher, 2)
    tail = None if kind == "no tail" else backend.array(stored.tail, dtype)
    return (
        TopKLogits(backend.array(stored.values, dtype), backend.array(stored.indices), tail),
    ) * 2


def vector() -> np.ndarray:
    return np.random.default_rng(5).standard_normal(ENDS[-1])


def bind(
    backend: Framework,
    kind: str,
    options: dict[str, Any],
    bias: bool = True,
    dtype: str = "float64",
) -> tuple[Any, Any]:
    """Return parameters → the fused loss, and → that of the logits."""
    case = make_case(6)
    given, theirs = teachers(backend, kind, dtype)
    labels, mask = backend.array(case.labels), backend.array(case.mask)
    head = {"softcap": options.get("softcap"), "scale": options.get("scale", 1.0)}
    rest = {name: x for name, x in options.items() if name not in head}

    def fused(parameters: Any) -> Any:
        hidden, weight, offset = layer_of(parameters, bias)
        more = {"bias": offset, "attention_mask": mask, **head, **rest}
        return linear_token_kd_loss(hidden, weight, given, labels, **more)

    def unfused(parameters: Any) -> Any:
        logits = logits_of(parameters, bias, **head)
        return token_kd_loss(logits, theirs, labels, attention_mask=mask, **rest)

    return fused, unfused


def agree(
    backend: Framework,
    kind: str,
    options: dict[str, Any],
    *,
    bias: bool = True,
    compiled: bool = False,
) -> None:
    """Assert that value and gradient are the other loss's, with NaN where nothing counts."""
    fused, unfused = bind(backend, kind, options, bias)
    value, gradient = backend.value_and_grad(unfused, vector())
    fused = backend.jit(fused) if compiled else fused
    given, slopes = vector(), gradient[: ENDS[1]].reshape(-1, WIDTH)
    given[: ENDS[1]].reshape(-1, WIDTH)[(slopes == 0.0).all(1)] = np.nan
    found, other = backend.value_and_grad(fused, given)
    assert_value(found, value, scale=SCALE)
    assert_gradient(other, gradient, scale=SCALE, floor=0.1)


@pytest.mark.parametrize("kind", TEACHERS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_that_of_the_logits(
    differentiable: Framework, options: dict[str, Any], kind: str
) -> None:
    agree(differentiable, kind, options)


def test_logits_beside_a_teacher_that_is_a_layer(differentiable: Framework) -> None:
    """The teacher's blocks are larger than the loss's, which then writes a part of one."""
    case, results = make_case(6), []
    labels = differentiable.array(np.where(case.labels == 1, -100, case.labels))
    for teacher in teachers(differentiable, "layer"):
        loss = partial(token_kd_loss, teacher=teacher, labels=labels)
        results.append(differentiable.value_and_grad(loss, case.student))
    assert_value(results[0][0], results[1][0], scale=SCALE)
    assert_gradient(results[0][1], results[1][1], scale=SCALE)


@pytest.mark.parametrize("kind", ["top", "layer"])
@pytest.mark.parametrize("form", ["compiled", "bias"])
def test_compiled_and_without_a_bias(differentiable: Framework, form: str, kind: str) -> None:
    agree(differentiable, kind, OPTIONS[0], **{form: form == "compiled"})


@pytest.mark.parametrize("kind", TEACHERS)
def test_values_equal_their_definition(backend: Framework, kind: str) -> None:
    case, head = make_case(6), {"softcap": 2.0, "scale": 0.5}
    _, theirs = teachers(Framework(), kind)
    theirs = tuple(theirs) if kind in ("top", "no tail") else theirs
    reference = token_kd(
        logits_of(vector(), True, **head), theirs, case.labels, case.mask, shift=True, ce_weight=0.5
    )
    fused, _ = bind(backend, kind, {"shift": True, "ce_weight": 0.5, **head})
    assert_value(backend.to_numpy(fused(backend.array(vector()))), reference, scale=SCALE)


def test_one_value_a_token_has_its_own_gradient(differentiable: Framework) -> None:
    weights = differentiable.array(np.random.default_rng(0).random((BATCH, TIME)))

    def weighted(loss: Any) -> Any:
        return lambda x: backend_for("test", x).sum(loss(x) * weights, None)

    fused, unfused = (weighted(f) for f in bind(differentiable, "top", {"reduction": "none"}))
    value, gradient = differentiable.value_and_grad(unfused, vector())
    found, other = differentiable.value_and_grad(fused, vector())
    assert_value(found, value, scale=SCALE)
    assert_gradient(other, gradient, scale=SCALE, floor=0.1)


@pytest.mark.parametrize(("dtype", "tokens"), [("float32", 8), ("float16", 8), ("float16", 2**24)])
def test_in_other_dtypes(differentiable: Framework, dtype: str, tokens: int) -> None:
    """The logits of half precision are rounded once, as a layer of a model rounds them.

    Of a loss that is scaled, nothing that a mean over many tokens takes is lost.
    """

    def scaled(loss: Any) -> Any:
        return lambda x: tokens * loss(x)

    options = OPTIONS[0] | {"normalizer": float(tokens)}
    _, unfused = bind(differentiable, "layer", options)
    fused, _ = bind(differentiable, "layer", options, dtype=dtype)
    value, gradient = differentiable.value_and_grad(scaled(unfused), vector())
    found, other = differentiable.value_and_grad(scaled(fused), vector(), dtype)
    rounding = 1.0 if dtype == "float32" else 2.0**-10 / 1e-5
    assert_value(found, value, "float32", SCALE * rounding)
    assert_gradient(other, gradient, "float32", SCALE * rounding, floor=0.1)


@pytest.mark.parametrize("frozen", [("weight", "bias"), ("hidden",)])
@pytest.mark.parametrize("backend", only("torch"), indirect=True)
def test_what_is_frozen_has_no_gradient(backend: Framework, frozen: tuple[str, ...]) -> None:
    import torch

    given, _ = teachers(backend, "top")
    names = ("hidden", "weight", "bias")
    tensors = dict(zip(names, layer_of(torch.from_numpy(vector()), True), strict=True))
    whole = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    part = {name: x.clone().requires_grad_(name not in frozen) for name, x in tensors.items()}
    for leaves in (whole, part):
        hidden, weight, bias = leaves.values()
        linear_token_kd_loss(hidden, weight, given, bias=bias).backward()
    for name in names:
        if name in frozen:
            assert part[name].grad is None
        else:
            assert torch.equal(part[name].grad, whole[name].grad)


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
def test_a_tied_head(backend: Framework) -> None:
    """One parameter as embedding and as head receives the sum of both gradients."""
    import torch

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(CLASSES, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    ids = torch.randint(0, CLASSES, (BATCH, TIME), generator=generator)
    teacher = torch.from_numpy(make_case(6).teacher)
    hidden = weight[ids].sin()
    linear_token_kd_loss(hidden, weight, teacher, ids, ce_weight=1.0).backward()
    found, weight.grad = weight.grad, None
    token_kd_loss(weight[ids].sin() @ weight.mT, teacher, ids, ce_weight=1.0).backward()
    assert_gradient(backend.to_numpy(found), backend.to_numpy(weight.grad), scale=SCALE)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"weight": np.ones((5, 3))}, r"hidden and weight need shapes .*got \(4, 3, 4\) and \(5, 3\)"),
    ({"bias": np.ones(4)}, r"bias needs shape \(5,\).*got \(4,\)"),
    ({"weight": np.ones((5, 4), int)}, "weight needs a float dtype; got int64"),
    ({"teacher": (1,)}, "missing 1 required positional argument: 'weight'"),
    ({"teacher": (np.ones((4, 3, 2)), np.ones((6, 2)))}, r"vocabulary of the student, \(4, 3, 5\)"),
    ({"teacher": (np.ones((4, 2, 2)), np.ones((5, 2)))}, r"got \(4, 2, 5\)"),
    ({"labels": np.ones((4, 3, 5))}, r"labels needs shape \(4, 3\), one a token; got \(4, 3, 5\)"),
    ({"labels": np.full((4, 3), 5)}, "needs labels in 0 … 4"),
    ({"softcap": 0.0}, "softcap needs a finite number > 0"),
    ({"scale": float("nan")}, "scale needs a finite number"),
]


@pytest.mark.parametrize(("given", "text"), BAD, ids=[text for _, text in BAD])
def test_errors_say_what_to_do(no_default_backend: None, given: dict[str, Any], text: str) -> None:
    hidden, weight, bias = layer_of(vector(), True)
    arguments = {"hidden": hidden, "weight": weight, "bias": bias}
    arguments |= {"teacher": teachers(Framework(), "logits")[0]} | given
    with pytest.raises((ValueError, TypeError), match=text):
        linear_token_kd_loss(**arguments)

"""PyTorch: torch.compile without a graph break or recompile, torch.func, autocast."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mcld_core import MCLDConfig, TeacherKeys, mcld_loss
from tests import oracles
from tests.cases import bind, make_case, make_keys, value_and_grad
from tests.frameworks import Framework, only
from tests.tolerance import assert_gradient, assert_value

pytestmark = pytest.mark.parametrize("backend", only("torch"), indirect=True)

SETTINGS: list[dict[str, Any]] = [
    {},
    {"similarity": "pearson", "category_contrast": "prototypes"},
    {"similarity": "cosine", "weight_ce": 0.5},
    {"similarity": "dot", "sample_target_mask": False},
    {"category_contrast": "columns", "target_mask": False},
]


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("settings", "kind", "compiler"),
    [
        (SETTINGS[0], "int", "aot_eager"),
        (SETTINGS[0], "soft", "eager"),
        (SETTINGS[0], "keys", "eager"),
        (SETTINGS[1], "none", "eager"),
        (SETTINGS[1], "keys", "aot_eager"),
        (SETTINGS[2], "int", "eager"),
        (SETTINGS[3], "soft", "eager"),
        (SETTINGS[4], "int", "aot_eager"),
    ],
    ids=str,
)
def test_compiled_equals_eager(
    backend: Framework, settings: dict[str, Any], kind: str, compiler: str
) -> None:
    case = make_case(131, labels=kind if kind != "keys" else "int", weights=True, where=True)
    if kind == "keys":
        case = case.but(keys=make_keys(case, own_start=3))
    call = bind(backend, mcld_loss, case, settings=settings)
    compiled = torch.compile(call, fullgraph=True, backend=compiler)
    found, gradient = backend.value_and_grad(compiled, case.student)
    expected, reference = value_and_grad(backend, mcld_loss, case, settings=settings)
    assert_value(found, expected, scale=oracles.scale(case, **settings))
    assert_gradient(gradient, reference, scale=oracles.scale(case, **settings))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when inductor is imported
def test_inductor_equals_eager(backend: Framework) -> None:
    """Real code generation once, forward and backward, in float32."""
    case = make_case(134, weights=True, where=True)
    compiled = torch.compile(bind(backend, mcld_loss, case, "float32"), fullgraph=True)
    found, gradient = backend.value_and_grad(compiled, case.student, "float32")
    expected, reference = value_and_grad(backend, mcld_loss, case)
    assert_value(found, expected, "float32", oracles.scale(case))
    assert_gradient(gradient, reference, "float32", oracles.scale(case))


def test_one_compile_for_many_batch_contents(backend: Framework) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(mcld_loss, fullgraph=True, backend=counter)
    for seed in range(6):
        case = make_case(seed, weights=True, where=True)
        arguments = [backend.array(a) for a in (case.student, case.teacher, case.labels)]
        options = {n: backend.array(getattr(case, n)) for n in ("sample_weight", "where")}
        arguments[0].requires_grad_()
        loss = step(*arguments, **options)
        loss.backward()
        assert_value(backend.to_numpy(loss), oracles.mcld_loss(case))
    assert counter.frame_count == 1


@pytest.mark.parametrize("varied", ["numbers", "batch", "own_start"])
def test_at_most_one_recompile_over_many_numbers(backend: Framework, varied: str) -> None:
    """A Python float or size that changes becomes dynamic at its first change."""
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(mcld_loss, fullgraph=True, backend=counter)
    names = ("temperature", "key_temperature", "sample_temperature", "beta")
    names += ("weight_instance", "weight_sample", "weight_category", "weight_ce")
    for k in range(6):
        settings: dict[str, Any] = {}
        case = make_case(k, batch=4 + k if varied == "batch" else 5).but(progress=0.3)
        start = k % 4 if varied == "own_start" else 2
        case = case.but(keys=make_keys(case, own_start=start, rows=12))
        if varied == "numbers":
            number = 0.3 + 0.11 * k
            settings = {name: number + 0.01 * i for i, name in enumerate(names)}
            case = case.but(progress=number)
        keys = case.keys
        found = step(
            *(backend.array(a) for a in (case.student, case.teacher, case.labels)),
            config=MCLDConfig(**settings),
            keys=TeacherKeys(backend.array(keys.logits), backend.array(keys.labels), None, start),
            progress=case.progress,
        )
        assert_value(backend.to_numpy(found), oracles.mcld_loss(case, **settings), scale=20)
    assert counter.frame_count <= (3 if varied == "own_start" else 2)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_func_vmap_over_batches(backend: Framework, settings: dict[str, Any]) -> None:
    cases = [make_case(seed) for seed in (1, 2, 3)]
    stacked = [
        backend.array(np.stack([getattr(case, name) for case in cases]))
        for name in ("student", "teacher", "labels")
    ]
    config = MCLDConfig(**settings)

    def loss(student: Any, teacher: Any, labels: Any) -> Any:
        return mcld_loss(student, teacher, labels, config=config)

    found = torch.func.vmap(loss)(*stacked)
    expected = [oracles.mcld_loss(case, **settings) for case in cases]
    assert_value(backend.to_numpy(found), expected, scale=20)
    gradients = torch.func.vmap(torch.func.grad(loss))(*stacked)
    for case, gradient in zip(cases, gradients, strict=True):
        _, reference = value_and_grad(backend, mcld_loss, case, settings=settings)
        assert_gradient(backend.to_numpy(gradient), reference, scale=20)


def test_second_derivatives(backend: Framework) -> None:
    """The gradient of a gradient norm, as a penalty uses it: against autograd's Jacobian."""
    case = make_case(137)
    call = bind(backend, mcld_loss, case)
    student = backend.array(case.student)
    hessian = torch.autograd.functional.hessian(call, student)
    flat = backend.to_numpy(hessian).reshape(20, 20)
    assert_gradient(flat, flat.T)
    step = np.zeros_like(case.student)
    step[1, 2] = 1e-5
    _, after = backend.value_and_grad(call, case.student + step)
    _, before = backend.value_and_grad(call, case.student - step)
    expected = (after - before) / 2e-5
    np.testing.assert_allclose(flat[:, 6].reshape(5, 4), expected, atol=1e-8)


def test_autocast_of_a_model_and_compile(backend: Framework) -> None:
    case = make_case(139)
    model = torch.nn.Linear(4, 4)
    teacher, labels = backend.array(case.teacher, "float32"), backend.array(case.labels)

    def loss(inputs: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return mcld_loss(model(inputs), teacher, labels)

    inputs = backend.array(case.student, "float32")
    eager = loss(inputs)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(inputs)
    assert eager.dtype == compiled.dtype == torch.float32
    compiled.backward()
    assert model.weight.grad is not None
    assert compiled.item() == pytest.approx(eager.item(), rel=1e-5)

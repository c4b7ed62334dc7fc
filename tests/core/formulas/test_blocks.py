"""Rows in blocks: any block size gives the same loss and gradient, the last block ragged or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, mcld_loss
from tests import oracles
from tests.cases import bind, make_case, make_keys, value, value_and_grad
from tests.frameworks import Framework, only
from tests.oracles import Case
from tests.tolerance import assert_gradient, assert_value

SIZES = [1, 3, 7, None]  # single rows, a ragged last block, one block, no blocks
SETTINGS: list[dict[str, Any]] = [
    {"weight_ce": 0.5},
    {"similarity": "pearson", "category_contrast": "prototypes"},
    {"similarity": "dot", "category_contrast": "columns", "sample_target_mask": False},
]


def the_case(labels: str = "int") -> Case:
    """Return seven rows, weighted and masked, among eleven keys."""
    case = make_case(171, batch=7, labels=labels, weights=True, where=True).but(progress=0.5)
    keys = make_keys(case, rows=11, own_start=3, labels="soft" if labels == "soft" else "int")
    return case.but(keys=replace(keys, where=np.arange(11) != 1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_any_block_size_gives_the_loss(
    backend: Framework, settings: dict[str, Any], size: int | None
) -> None:
    case = the_case("soft")
    chosen = settings | {"block_size": size}
    found = value(backend, mcld_loss, case, settings=chosen, reduction="none")
    expected = oracles.mcld_loss(case, "none", **settings)
    assert_value(found, expected, scale=oracles.scale(case, **settings))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_any_block_size_gives_the_gradient(
    differentiable: Framework, settings: dict[str, Any], size: int | None
) -> None:
    case = the_case()
    chosen = settings | {"block_size": size}
    found, gradient = value_and_grad(differentiable, mcld_loss, case, settings=chosen)
    chosen = settings | {"block_size": None}
    expected, reference = value_and_grad(differentiable, mcld_loss, case, settings=chosen)
    assert_value(found, expected)
    assert_gradient(gradient, reference, scale=oracles.scale(case, **settings))


def test_blocks_when_compiled(differentiable: Framework) -> None:
    case = the_case()
    call = bind(differentiable, mcld_loss, case, settings={"block_size": 3})
    compiled = differentiable.jit(call)
    found, gradient = differentiable.value_and_grad(compiled, case.student)
    expected, reference = value_and_grad(differentiable, mcld_loss, case)
    assert_value(found, expected)
    assert_gradient(gradient, reference)


def test_each_rows_share_of_an_incoming_gradient_in_blocks(differentiable: Framework) -> None:
    case = the_case()
    incoming = differentiable.array(np.linspace(-2, 2, 7))
    gradients = []
    for block_size in (3, None):
        settings = {"block_size": block_size}
        call = bind(differentiable, mcld_loss, case, settings=settings, reduction="none")

        def total(student: Any, call: Any = call) -> Any:
            rows = call(student) * incoming
            return sum(rows[i] for i in range(7))

        gradients.append(differentiable.value_and_grad(total, case.student)[1])
    assert_gradient(*gradients)


def test_half_precision_in_blocks(differentiable: Framework) -> None:
    case = the_case()
    expected, reference = value_and_grad(differentiable, mcld_loss, case)
    for dtype in ("float16", "bfloat16", "float32"):
        settings = {"block_size": 2}
        found, gradient = value_and_grad(differentiable, mcld_loss, case, dtype, settings)
        assert_value(found, expected, dtype, oracles.scale(case))
        assert_gradient(gradient, reference, dtype, oracles.scale(case))


@pytest.mark.parametrize("backend", only("tensorflow"), indirect=True)
@pytest.mark.parametrize("xla", [False, True])
def test_ragged_blocks_of_an_unknown_batch(backend: Framework, xla: bool) -> None:
    """Under XLA a slice beyond the end would be moved back, and rows counted twice or never."""
    tf = backend.tf  # type: ignore[attr-defined]
    config = MCLDConfig(block_size=3)
    spec = tf.TensorSpec([None, 4], tf.float64)

    signature = [spec, spec, tf.TensorSpec([None], tf.int64)]

    @tf.function(input_signature=signature, jit_compile=xla, autograph=False)
    def step(student: Any, teacher: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(student)
            rows = mcld_loss(student, teacher, labels, config=config, reduction="none")
        return rows, tape.gradient(rows, student)

    for batch in (7, 1) if xla else (7, 3, 1, 8):  # XLA compiles each size anew
        case = make_case(batch, batch=batch)
        arrays = (case.student, case.teacher, case.labels)
        rows, gradient = step(*(backend.array(a) for a in arrays))
        assert_value(backend.to_numpy(rows), oracles.mcld_loss(case, "none"))
        _, reference = value_and_grad(backend, mcld_loss, case, reduction="sum")
        assert_gradient(backend.to_numpy(gradient), reference, floor=1e-3)
    assert step.experimental_get_tracing_count() == 1

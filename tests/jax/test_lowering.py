"""Every loss and its gradient are lowered for accelerators, on a machine without one."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
import pytest
from jax import export

from tests.calls import CALLS, Arrays, arrays

STUDENTS = ("student", "token_student")
PLATFORMS = ("cuda", "tpu")


@pytest.mark.parametrize("name", CALLS)
def test_value_and_gradient_are_lowered_for_cuda_and_tpu(name: str) -> None:
    """In bfloat16: the loss is float32, the gradient bfloat16, and nothing is float64."""
    text, found = lowered(CALLS[name], "bfloat16")
    assert found == [((), "float32")] + [
        (arrays()[key].shape, "bfloat16") for key in sorted(STUDENTS)
    ]
    assert wide_or_by_the_host(text) == []


@pytest.mark.parametrize("name", ["mcld_loss, every argument", "token_kd_loss, stored"])
def test_so_is_float32(name: str) -> None:
    text, found = lowered(CALLS[name], "float32")
    assert {dtype for _, dtype in found} == {"float32"}
    assert wide_or_by_the_host(text) == []


def test_float64_and_the_host_are_seen() -> None:
    def wide(x: Arrays) -> Any:
        return x.student.astype("float64").sum().astype("float32") + x.token_student.sum()

    def by_the_host(x: Arrays) -> Any:
        shape = jax.ShapeDtypeStruct((), "float32")
        total = jax.pure_callback(np.sum, shape, jax.lax.stop_gradient(x.teacher))
        return x.student.sum() + x.token_student.sum() + total

    assert wide_or_by_the_host(lowered(wide, "float32")[0])
    with pytest.raises(NotImplementedError, match="callback"):
        lowered(by_the_host, "float32")


def lowered(call: Any, dtype: str) -> tuple[str, list[tuple[tuple[int, ...], str]]]:
    """Return the program for all platforms, and shapes and dtypes of loss and gradients."""
    given = {
        key: jax.ShapeDtypeStruct(x.shape, dtype if x.dtype.kind == "f" else x.dtype)
        for key, x in arrays().items()
    }
    trained = {key: given.pop(key) for key in STUDENTS}

    def loss(trained: dict[str, Any], rest: dict[str, Any]) -> Any:
        return call(Arrays(**trained, **rest))

    step = jax.jit(jax.value_and_grad(loss))
    found = export.export(step, platforms=PLATFORMS)(trained, given)
    assert found.platforms == PLATFORMS
    return found.mlir_module(), [(x.shape, x.dtype.name) for x in found.out_avals]


def wide_or_by_the_host(text: str) -> list[str]:
    """Return the float64 arrays (single numbers may be) and the calls of the host."""
    return re.findall(r"tensor<(?:\d+x)+f64>|\w*callback\w*", text)

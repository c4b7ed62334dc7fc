"""No array of tokens × tokens: that is what `token_mcld_loss` has its blocks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core.extensions.nlp import token_mcld_loss
from tests.frameworks import Framework, only

SEQUENCES, TOKENS, VOCABULARY = 16, 512, 256
ROWS = SEQUENCES * TOKENS


def inputs(backend: Framework) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    shape = (SEQUENCES, TOKENS, VOCABULARY)
    student, teacher = (backend.array(rng.standard_normal(shape, np.float32)) for _ in range(2))
    return student, teacher, backend.array(rng.integers(0, VOCABULARY, shape[:2], "int32"))


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
def test_no_tensor_of_torch_is_as_large(backend: Framework) -> None:
    from tests.torch_tensors import Made

    sizes: list[int] = []
    student, teacher, labels = inputs(backend)
    student.requires_grad_()
    with Made(lambda _, x: sizes.append(x.numel())):
        token_mcld_loss(student, teacher, labels, shift=True).backward()
    assert student.grad is not None
    assert ROWS * VOCABULARY <= max(sizes) < ROWS * ROWS / 8


@pytest.mark.parametrize("backend", only("jax"), indirect=True)
def test_the_temporary_memory_of_jax_is_less(backend: Framework) -> None:
    import jax

    def loss(student: Any, teacher: Any, labels: Any) -> Any:
        return token_mcld_loss(student, teacher, labels, shift=True)

    step = jax.jit(jax.value_and_grad(loss))
    found = step.lower(*inputs(backend)).compile().memory_analysis()
    assert 0 < found.temp_size_in_bytes < 4 * ROWS * ROWS

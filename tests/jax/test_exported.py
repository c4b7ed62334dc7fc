"""`jax.export` with a symbolic batch: every loss and its gradient, of any number of rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.calls import CALLS, Arrays, arrays, has_batch, longer, used_by


@pytest.mark.parametrize("name", CALLS)
def test_an_exported_loss_takes_any_batch(name: str) -> None:
    x = used_by(name, Arrays(**{key: jnp.asarray(value) for key, value in arrays().items()}))
    student = "student" if "student" in x else "token_student"
    (rows,) = jax.export.symbolic_shape("rows")
    specs = {}
    for key, value in x.items():
        shape = (rows, *value.shape[1:]) if has_batch(name, key) else value.shape
        specs[key] = jax.ShapeDtypeStruct(shape, value.dtype)

    def step(x: dict[str, Any]) -> Any:
        return jax.value_and_grad(lambda s: CALLS[name](Arrays(**{**x, student: s})))(x[student])

    program = jax.export.export(jax.jit(step))(specs)
    x = longer(name, x, jnp.concatenate)
    found, gradient = program.call(x)
    reference = CALLS[name](Arrays(**{key: np.asarray(value) for key, value in x.items()}))
    np.testing.assert_allclose(found, reference, rtol=1e-5)  # NumPy's, which compiles nothing
    assert gradient.shape == x[student].shape

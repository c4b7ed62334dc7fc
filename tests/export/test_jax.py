"""JAX students: flax nnx modules and plain functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcld_core.export import export_onnx
from tests.export.families import FAMILIES, arguments, assert_exports
from tests.export.jax_students import build


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    reference = build(family)
    reference.eval()
    assert_exports(export_onnx, build(family), reference, family, tmp_path, channels_last=True)


def test_each_modules_mode_comes_back(tmp_path: Path) -> None:
    student = build("cnn")
    student.norm.use_running_average = True
    export_onnx(student, tmp_path / "a.onnx", **arguments("cnn", channels_last=True))
    assert not student.dropout.deterministic
    assert student.norm.use_running_average


@pytest.mark.parametrize("compiled", [False, True])
def test_a_function(compiled: bool, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    weights = {"in": generator.normal(size=(6, 8)), "out": generator.normal(size=(8, 4))}
    weights = {name: jnp.asarray(array, jnp.float32) for name, array in weights.items()}

    def forward(values: Any) -> Any:
        return jnp.tanh(values @ weights["in"]) @ weights["out"]

    student = jax.jit(forward) if compiled else forward
    report = export_onnx(student, tmp_path / "a.onnx", input_shape=(6,), opset=20, softmax=True)
    assert report.framework == "jax"
    assert report.opset == 20
    assert report.max_relative_error < 1e-5

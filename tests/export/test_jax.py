"""JAX students: flax nnx modules and plain functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mcld_core.export import export_onnx
from tests.export.families import (
    CLASSES,
    FAMILIES,
    TOKENS,
    VOCABULARY,
    arguments,
    assert_exports,
)


class Images(nnx.Module):
    """A convolution with or without groups, batch norm, dropout."""

    def __init__(self, family: str) -> None:
        rngs = nnx.Rngs(0)
        groups = 3 if family == "depthwise" else 1
        self.conv = nnx.Conv(3, 6, (3, 3), feature_group_count=groups, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.point = nnx.Conv(6, 16, (1, 1), rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(16, CLASSES[family], rngs=rngs)

    def __call__(self, images: Any) -> Any:
        values = nnx.relu(self.point(self.norm(self.conv(images))))
        return self.head(self.dropout(values.mean((1, 2))))


class Encoder(nnx.Module):
    """One block of attention over tokens with a mask."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.embedding = nnx.Embed(VOCABULARY, 16, rngs=rngs)
        self.positions = nnx.Param(jax.random.normal(jax.random.key(1), (TOKENS, 16)) / 4)
        self.attention = nnx.MultiHeadAttention(2, 16, dropout_rate=0.1, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.up, self.down = nnx.Linear(16, 32, rngs=rngs), nnx.Linear(32, 16, rngs=rngs)
        self.head = nnx.Linear(16, CLASSES["encoder"], rngs=rngs)

    def __call__(self, tokens: Any, mask: Any) -> Any:
        values = self.embedding(tokens)
        allowed = (mask > 0)[:, None, None, :]
        values = self.norm(values + self.attention(values, mask=allowed))
        values = values + self.down(nnx.gelu(self.up(values)))
        valid = mask[..., None].astype(values.dtype)
        return self.head((values * valid).sum(1) / valid.sum(1))


class Series(nnx.Module):
    """A 1-D convolution, batch norm, the mean over time."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(4, 12, (5,), rngs=rngs)
        self.norm = nnx.BatchNorm(12, rngs=rngs)
        self.head = nnx.Linear(12, CLASSES["series"], rngs=rngs)

    def __call__(self, values: Any) -> Any:
        return self.head(nnx.gelu(self.norm(self.conv(values))).mean(1))


def build(family: str) -> nnx.Module:
    """One student in train mode, batch norm away from its start."""
    makers = {"encoder": Encoder, "series": Series}
    student = makers[family]() if family in makers else Images(family)
    if family != "encoder":
        width = student.norm.mean.shape[0]
        student.norm.mean[...] = jnp.linspace(-1.0, 1.0, width, dtype=jnp.float32)
        student.norm.var[...] = jnp.linspace(0.5, 2.0, width, dtype=jnp.float32)
    student.train()
    return student


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

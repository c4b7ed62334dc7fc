"""Students in flax nnx."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tests.export.families import CLASSES, TOKENS, VOCABULARY


class Images(nnx.Module):
    """A convolution with or without groups, batch norm, dropout."""

    def __init__(self, family: str, scale: int) -> None:
        rngs = nnx.Rngs(0)
        groups = 3 if family == "depthwise" else 1
        self.conv = nnx.Conv(3, 6, (3, 3), feature_group_count=groups, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.point = nnx.Conv(6, 16 * scale, (1, 1), rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(16 * scale, CLASSES[family], rngs=rngs)

    def __call__(self, images: Any) -> Any:
        values = nnx.relu(self.point(self.norm(self.conv(images))))
        return self.head(self.dropout(values.mean((1, 2))))


class Encoder(nnx.Module):
    """One block of attention over tokens with a mask."""

    def __init__(self, scale: int) -> None:
        rngs, width = nnx.Rngs(0), 16 * scale
        self.embedding = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.positions = nnx.Param(jax.random.normal(jax.random.key(1), (TOKENS, width)) / 4)
        self.attention = nnx.MultiHeadAttention(2, width, dropout_rate=0.1, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up, self.down = (
            nnx.Linear(width, 2 * width, rngs=rngs),
            nnx.Linear(2 * width, width, rngs=rngs),
        )
        self.head = nnx.Linear(width, CLASSES["encoder"], rngs=rngs)

    def __call__(self, tokens: Any, mask: Any) -> Any:
        values = self.embedding(tokens)
        allowed = (mask > 0)[:, None, None, :]
        values = self.norm(values + self.attention(values, mask=allowed))
        values = values + self.down(nnx.gelu(self.up(values)))
        valid = mask[..., None].astype(values.dtype)
        return self.head((values * valid).sum(1) / valid.sum(1))


class Series(nnx.Module):
    """A 1-D convolution, batch norm, the mean over time."""

    def __init__(self, scale: int) -> None:
        rngs, width = nnx.Rngs(0), 12 * scale
        self.conv = nnx.Conv(4, width, (5,), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, CLASSES["series"], rngs=rngs)

    def __call__(self, values: Any) -> Any:
        return self.head(nnx.gelu(self.norm(self.conv(values))).mean(1))


def build(family: str, scale: int = 1) -> nnx.Module:
    """One student in train mode, batch norm away from its start."""
    makers = {"encoder": Encoder, "series": Series}
    student = makers[family](scale) if family in makers else Images(family, scale)
    if family != "encoder":
        width = student.norm.mean.shape[0]
        student.norm.mean[...] = jnp.linspace(-1.0, 1.0, width, dtype=jnp.float32)
        student.norm.var[...] = jnp.linspace(0.5, 2.0, width, dtype=jnp.float32)
    student.train()
    return student

"""Candidates in JAX: value and gradient of one loss under ``jax.jit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.measure import LIMIT, Shape
from mcld_core import MCLDConfig, TeacherKeys, instance_wise, kd_loss, mcld_loss

PACKAGES = ["jax", "optax"]


def candidates(shape: Shape, device: str, threads: int, compiled: bool = True) -> dict[str, Any]:
    """Return name → call; each call ends when its gradient is there."""
    batch, keys, classes = shape
    key = jax.random.split(jax.random.key(0), 5)
    student = jax.random.normal(key[0], (batch, classes))
    teacher = 4 * jax.random.normal(key[1], (batch, classes))
    labels = jax.random.randint(key[2], (batch,), 0, classes)
    all_logits, all_labels, contrast = teacher, labels, None
    if keys != batch:
        more = 4 * jax.random.normal(key[3], (keys - batch, classes))
        all_logits = jnp.concatenate([teacher, more])
        all_labels = jnp.concatenate(
            [labels, jax.random.randint(key[4], (keys - batch,), 0, classes)]
        )
        contrast = TeacherKeys(all_logits, all_labels)
    ready = jax.nn.softmax(all_logits)

    def jitted(loss: Callable[..., Any], *operands: Any) -> Callable[[], None]:
        step = jax.jit(jax.value_and_grad(loss))
        return lambda: jax.block_until_ready(step(student, *operands))

    limit = jax.jit(lambda s, k: jnp.exp(s @ k.T) @ k)
    plain = MCLDConfig(block_size=None)
    found = {
        LIMIT: lambda: jax.block_until_ready(limit(student, ready)),
        "mcld_loss": jitted(
            lambda s, t, y, k: mcld_loss(s, t, y, keys=k), teacher, labels, contrast
        ),
        "mcld_loss, plain form": jitted(
            lambda s, t, y, k: mcld_loss(s, t, y, keys=k, config=plain), teacher, labels, contrast
        ),
        "instance_wise": jitted(
            lambda s, t, y, k: instance_wise(s, t, y, keys=k), teacher, labels, contrast
        ),
        "kd_loss": jitted(lambda s, t: kd_loss(s, t), teacher),
    }
    if contrast is not None:
        stored = contrast._replace(logits=None, probabilities=ready)
        found["mcld_loss, keys ready"] = jitted(
            lambda s, t, y, k: mcld_loss(s, t, y, keys=k), teacher, labels, stored
        )
    if keys == batch and batch * batch * classes * 4 < 2**27:
        # optax builds batch × batch × classes; freeing gigabytes would fall into the next time
        found["optax ntxent"] = jitted(lambda s, y: optax.losses.ntxent(s, y), labels)
    return found

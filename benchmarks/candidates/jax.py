"""Candidates in JAX: value and gradient of one loss under ``jax.jit``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.measure import LIMIT, Shape
from mcld_core import MCLDConfig, TeacherKeys, instance_wise, kd_loss, mcld_loss

PACKAGES = ["jax", "optax"]


def inputs(shape: Shape) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the student's logits, and logits and labels of all keys, the batch's first."""
    batch, keys, classes = shape
    first, second, third = jax.random.split(jax.random.key(0), 3)
    logits = 4 * jax.random.normal(first, (keys, classes))
    labels = jax.random.randint(second, (keys,), 0, classes)
    return jax.random.normal(third, (batch, classes)), logits, labels


def limit(student: jax.Array, ready: jax.Array) -> Callable[[], Any]:
    """Return a call of what no contrast can do without."""
    product = jax.jit(lambda s, k: jnp.exp(s @ k.T) @ k)
    return lambda: jax.block_until_ready(product(student, ready))


def trained(student: jax.Array, loss: Callable[..., Any], *operands: Any) -> Callable[[], Any]:
    """Return a call of a loss's value and gradient."""
    step = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(step(student, *operands))


def by_library(shape: Shape, libraries: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return value and gradient of each library's compiled loss, and the limit."""
    student, logits, labels = inputs(shape)
    calls = {LIMIT: limit(student, jax.nn.softmax(logits))}
    for name, library in libraries.items():

        def loss(student: Any, logits: Any, labels: Any, library: Any = library) -> Any:
            keys = None if shape.keys == shape.batch else library.TeacherKeys(logits, labels)
            own = logits[: shape.batch], labels[: shape.batch]
            return library.mcld_loss(student, *own, keys=keys)

        calls[name] = trained(student, loss, logits, labels)
    return calls


def candidates(shape: Shape, device: str, threads: int, compiled: bool = True) -> dict[str, Any]:
    """Return name → call; each call ends when its gradient is there."""
    batch, keys, classes = shape
    student, all_logits, all_labels = inputs(shape)
    teacher, labels, ready = all_logits[:batch], all_labels[:batch], jax.nn.softmax(all_logits)
    contrast = None if keys == batch else TeacherKeys(all_logits, all_labels)
    jitted = partial(trained, student)

    def contrasts(keys: Any = contrast, loss: Any = mcld_loss, **more: Any) -> Callable[[], Any]:
        return jitted(lambda s, t, y, k: loss(s, t, y, keys=k, **more), teacher, labels, keys)

    found = {
        LIMIT: limit(student, ready),
        "mcld_loss": contrasts(),
        "mcld_loss, plain form": contrasts(config=MCLDConfig(block_size=None)),
        "instance_wise": contrasts(loss=instance_wise),
        "kd_loss": jitted(lambda s, t: kd_loss(s, t), teacher),
    }
    if contrast is not None:
        stored = contrast._replace(logits=None, probabilities=ready)
        found["mcld_loss, keys ready"] = contrasts(stored)
    if keys == batch and batch * batch * classes * 4 < 2**27:
        # optax builds batch × batch × classes; freeing gigabytes would fall into the next time
        found["optax ntxent"] = jitted(lambda s, y: optax.losses.ntxent(s, y), labels)
    return found

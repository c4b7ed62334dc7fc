"""Losses and gradients by `gather_keys` over JAX devices, written to a file.

Run by test_jax.py: ``python -m tests.distributed.jax_worker OUT [PROCESS PROCESSES ADDRESS]``; the
number of local devices comes from XLA_FLAGS.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.jax.distributed import gather_keys
from tests.distributed.replicas import joined_batches

Rows = tuple[jax.Array | None, ...]


def main(out: str, process: int, processes: int, address: str) -> None:
    """Compute all cases; the first process writes them."""
    if processes > 1:
        jax.distributed.initialize(address, processes, process)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    hosts = 2  # a mesh of two axes: the batch is split over both
    mesh = jax.make_mesh((hosts, jax.device_count() // hosts), ("host", "device"))
    evaluate = make_evaluate(mesh)
    found: dict[str, np.ndarray] = {}
    for joined in joined_batches(jax.device_count()):
        case = joined.padded()
        weight = np.ones(len(case.student)) if case.sample_weight is None else case.sample_weight
        rows = (case.student, case.teacher, case.labels, weight, case.where)
        values = evaluate(tuple(shard(x, mesh) for x in rows), MCLDConfig(**joined.settings))
        loss, gradient, shared = map(np.asarray, values)
        found[f"{joined.name}/loss"] = loss
        found[f"{joined.name}/gradient"] = gradient[joined.padded_rows()]
        found[f"{joined.name}/shared"] = shared
    if process == 0:
        with open(f"{out}.tmp", "wb") as file:
            np.savez(file, replicas=jax.device_count(), **found)
        os.replace(f"{out}.tmp", out)


def shard(x: np.ndarray | None, mesh: Mesh) -> jax.Array | None:
    """Return the rows over all devices, floats as float32."""
    if x is None:
        return None
    x = x.astype(np.float32) if x.dtype == np.float64 else x
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def make_evaluate(mesh: Mesh) -> Callable[..., tuple[jax.Array, ...]]:
    """Return (rows, config) → loss, its gradient by the student's rows, and by shared weights."""
    axes, whole = mesh.axis_names, PartitionSpec()

    def replica_loss(student: jax.Array, rows: Rows, config: MCLDConfig) -> jax.Array:
        teacher, labels, weight, where = rows
        keys = gather_keys(teacher, labels, axis_name=axes, sample_weight=weight, where=where)
        loss = mcld_loss(
            student,
            teacher,
            labels,
            config=config,
            keys=keys,
            sample_weight=weight,
            where=where,
        )
        return jax.lax.pmean(loss, axes)

    def shared_gradient(weights: jax.Array, student: jax.Array, rows: Rows, config: MCLDConfig):
        """Differentiate inside shard_map, by weights that all replicas share."""
        return jax.grad(lambda w: replica_loss(student + w, rows, config))(weights)

    @partial(jax.jit, static_argnums=1, out_shardings=NamedSharding(mesh, whole))
    def evaluate(rows: Rows, config: MCLDConfig) -> tuple[jax.Array, ...]:
        over = partial(jax.shard_map, mesh=mesh, out_specs=whole)
        split = PartitionSpec(axes)
        loss = over(partial(replica_loss, config=config), in_specs=(split, split))
        value, gradient = jax.value_and_grad(loss)(rows[0], rows[1:])
        shared = over(partial(shared_gradient, config=config), in_specs=(whole, split, split))
        zeros = jnp.zeros((1, rows[0].shape[1]))
        return value, gradient, shared(zeros, rows[0], rows[1:])

    return evaluate


if __name__ == "__main__":
    out, process, processes, address = (*sys.argv[1:], "0", "1", "")[:4]
    main(out, int(process), int(processes), address)

"""What the loop of JAX needs: the devices that share a batch, and the arrays of a model by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from .data import Split, evaluation_batches
from .files import save_arrays
from .run import Processes


class Devices(Processes):
    """All devices of all processes: batches are split over them, everything else is on each."""

    def __init__(self) -> None:
        self.alone = jax.process_count() == 1
        mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
        self.rows = NamedSharding(mesh, PartitionSpec("data"))
        self.whole = NamedSharding(mesh, PartitionSpec())

    def copy(self, tree: Any) -> Any:
        """Put arrays on every device."""
        return jax.device_put(tree, self.whole)

    def of(self, count: int) -> NamedSharding:
        """Say where ``count`` rows go: a number that does not divide goes to each device whole."""
        return self.whole if count % jax.device_count() else self.rows

    def share(self, count: int) -> np.ndarray:
        """Return which of ``count`` rows this process reads: those of its devices."""
        places = self.of(count).addressable_devices_indices_map((count,)).values()
        return np.unique(np.concatenate([np.arange(count)[place] for place in places]))

    def split(self, count: int, *own: np.ndarray) -> tuple[jax.Array, ...]:
        """Make arrays of ``count`` rows over all devices of what each process has read."""
        join = partial(jax.make_array_from_process_local_data, self.of(count))
        return tuple(join(x, (count, *x.shape[1:])) for x in own)

    def answers(self, size: int, split: Split, function: Any) -> np.ndarray:
        """Return a function's rows for all images of a split."""
        own, parts = self.share(size), []
        for images, rows in evaluation_batches(split, size):
            answers = function(*self.split(size, images[own]))
            parts.append(process_allgather(answers, tiled=True)[:rows])
        return np.concatenate(parts)

    def any(self, flag: bool) -> bool:
        """Return whether any process says so; every process asks, and waits."""
        return flag if self.alone else bool(process_allgather(np.asarray(flag)).any())


def named(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a pytree by their place in it; keys of dropout as their numbers."""
    return {
        jax.tree_util.keystr(place): np.asarray(_data(leaf))
        for place, leaf in jax.tree.leaves_with_path(tree)
    }


def unnamed(arrays: dict[str, np.ndarray], like: Any) -> Any:
    """Return the pytree that `named` took apart."""

    def find(place: Any, leaf: Any) -> jax.Array:
        array = jnp.asarray(arrays[jax.tree_util.keystr(place)])
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(array)
        return array

    return jax.tree.map_with_path(find, like)


def _data(leaf: Any) -> Any:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def save_model(path: Path, params: Any, others: Any, notes: Mapping[str, Any]) -> None:
    """Write what a model holds (two pure dicts, as `flax.nnx.to_pure_dict` gives) and notes."""
    state = nnx.merge_state(nnx.State(params), nnx.State(others))
    save_arrays(path, named(nnx.to_pure_dict(state)), dict(notes))

"""A Flax model as functions and arrays, spread over the local devices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .data import Dataset, Split


class Variables(NamedTuple):
    """What a model holds: what is trained, and the running statistics of its batch norms."""

    params: Any
    statistics: Any


@dataclass(frozen=True)
class Network:
    """The structure of a model in its two modes: hashable, so static under ``jax.jit``."""

    evaluating: nnx.GraphDef[Any]
    training: nnx.GraphDef[Any]

    def logits(self, variables: Variables, pixels: jax.Array) -> jax.Array:
        """Return the logits in evaluation mode, in float32."""
        return nnx.merge(self.evaluating, *_states(variables))(pixels).astype("float32")

    def train(self, variables: Variables, pixels: jax.Array) -> tuple[jax.Array, Any]:
        """Return the logits in training mode, in float32, and the new running statistics."""
        model = nnx.merge(self.training, *_states(variables))
        logits = model(pixels).astype("float32")
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def take_apart(model: nnx.Module) -> tuple[Network, Variables]:
    """Return the structure and the arrays of a model."""
    model.eval()
    evaluating, *_ = nnx.split(model, nnx.Param, nnx.BatchStat)
    model.train()
    training, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    variables = Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(statistics))
    return Network(evaluating, training), variables


class Devices:
    """The local devices: batches are split over them, everything else is on each."""

    def __init__(self) -> None:
        mesh: Mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
        self.rows = NamedSharding(mesh, PartitionSpec("data"))
        self.whole = NamedSharding(mesh, PartitionSpec())

    def copy(self, tree: Any) -> Any:
        """Put arrays on every device."""
        return jax.device_put(tree, self.whole)

    def split(self, arrays: tuple[np.ndarray, ...]) -> tuple[jax.Array, ...]:
        """Split the rows over the devices; a number that does not divide goes to each whole."""
        divides = len(arrays[0]) % jax.device_count() == 0
        return tuple(jax.device_put(arrays, self.rows if divides else self.whole))


def normalise(data: Dataset, images: jax.Array) -> jax.Array:
    """Turn bytes into normalised float32 pixels."""
    mean, std = (jnp.asarray(x, "float32")[None, None, None] for x in (data.mean, data.std))
    return (images.astype("float32") / 255 - mean) / std


class Predictor:
    """Computes the logits of whole splits, in one compiled program a network."""

    def __init__(self, data: Dataset, devices: Devices, batch_size: int) -> None:
        self.data, self.devices = data, devices
        self.batch_size = batch_size

    def __call__(self, network: Network, variables: Variables, split: Split) -> np.ndarray:
        """Return the logits of a split; the last batch is filled up with black images."""
        size = min(self.batch_size, len(split))
        size += -size % jax.device_count()
        parts = []
        for start in range(0, len(split), size):
            images = split.images[start : start + size]
            rows = len(images)
            images = np.pad(images, ((0, size - rows), *[(0, 0)] * 3))
            parts.append(self._logits(network, variables, *self.devices.split((images,)))[:rows])
        return np.concatenate(parts)

    @partial(jax.jit, static_argnums=(0, 1))
    def _logits(self, network: Network, variables: Variables, images: jax.Array) -> jax.Array:
        return network.logits(variables, normalise(self.data, images))


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the part of rows whose greatest logit is the label's."""
    return float((logits.argmax(1) == labels).mean())


def _states(variables: Variables) -> tuple[nnx.State, nnx.State]:
    return tuple(nnx.State(part) for part in variables)  # type: ignore[return-value]

"""One training in JAX: the arrays that `recipes.array_loop` carries from step to step."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from mcld_core import TeacherBank

from .data import Dataset, Split, steps_per_epoch, training_batches
from .jax_network import Devices, Network, Predictor, Variables, accuracy
from .jax_step import State, Teaching, optimizer
from .logs import Row
from .training import Job, learning_rate


def named(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a pytree by their place in it."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in leaves}


def unnamed(arrays: dict[str, np.ndarray], like: Any) -> Any:
    """Return the pytree that `named` took apart, placed as ``like`` is."""

    def find(place: Any, leaf: Any) -> jax.Array:
        return jax.device_put(arrays[jax.tree_util.keystr(place)], leaf.sharding)

    return jax.tree.map_with_path(find, like)


class JaxLearner:
    """A student, or the teacher itself, on the local devices."""

    def __init__(
        self,
        job: Job,
        network: Network,
        variables: Variables,
        step: Callable[..., tuple[State, dict[str, jax.Array]]],
        teaching: Teaching,
        data: Dataset,
        options: argparse.Namespace,
        devices: Devices,
        predict: Predictor,
    ) -> None:
        self.job, self.data, self.options, self.devices = job, data, options, devices
        self.network, self.compiled_step, self.teaching = network, step, teaching
        self.predict = predict
        self.steps = steps_per_epoch(data.train, options.batch_size)
        bank = None
        if job.method.startswith("mcld") and options.bank_size not in (0, "all"):
            bank = TeacherBank.empty(options.bank_size, data.classes, like=jax.numpy.zeros(0))
        moments = optimizer(options).init(variables.params)
        self.state: State = devices.copy(State(variables, moments, bank))

    def rate(self, done: float) -> float:
        """Return the learning rate where this part of the run is done."""
        return learning_rate(self.options.schedule, self.job.lr, done)

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield (images, labels, index)."""
        options = self.options
        return training_batches(
            self.data.train,
            options.batch_size,
            seed=self.job.seed,
            epoch=epoch,
            crop=options.crop,
            flip=options.flip,
            start=start,
        )

    def step(self, batch: Any, progress: float, rate: float) -> dict[str, Any]:
        """Train on a batch, split over the devices."""
        images, labels, index = batch
        rows = self.devices.split((images, labels.astype("int32"), index.astype("int32")))
        self.state, sums = self.compiled_step(
            self.state, self.teaching, *rows, np.float32(progress), np.float32(rate)
        )
        return sums | {"rows": np.float32(len(labels))}

    def evaluate(self) -> Row:
        """Return the accuracies on the validation and test splits."""
        row: Row = {}
        for part in ("validation", "test"):
            split: Split = getattr(self.data, part)
            if len(split):
                logits = self.predict(self.network, self.state.variables, split)
                row[f"{part}_accuracy"] = accuracy(logits, split.labels)
        return row

    def model_arrays(self) -> dict[str, np.ndarray]:
        """Return parameters and running statistics."""
        return named(self.state.variables)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return parameters, running statistics, moments and bank."""
        return named(self.state)

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what `arrays` gave."""
        self.state = unnamed(arrays, self.state)

"""Several devices and processes of Keras, by `keras.distribution` on JAX."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from ..run import Processes


class Devices(Processes):
    """The devices of all processes, by `keras.distribution` on JAX.

    Each process reads its rows of every batch. What is not trained runs on each by itself.
    """

    def __init__(self) -> None:
        if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ and not jax_is_distributed():
            keras.distribution.initialize()
        import jax

        self.devices, self.count = jax.device_count(), jax.process_count()
        self.number, self.alone = jax.process_index(), self.count == 1
        if self.devices > 1 and keras.distribution.distribution() is None:
            split = keras.distribution.DataParallel(auto_shard_dataset=False)
            keras.distribution.set_distribution(split)

    def share(self, count: int) -> slice:
        """Return which of ``count`` rows this process reads: as many for every device."""
        own = count // self.devices * self.devices // self.count
        return slice(self.number * own, (self.number + 1) * own)

    def any(self, flag: bool) -> bool:
        """Return whether any process says so; every process asks, and waits."""
        if self.alone:
            return flag
        from jax.experimental.multihost_utils import process_allgather

        return bool(process_allgather(np.asarray(flag)).any())


def leave(status: int) -> None:
    """End a process of several, with its exit status; of one, do nothing.

    When the others have come here too, it ends at once: Python's last collection of what Keras
    and JAX hold may wait forever, after all is written and said.
    """
    if keras.backend.backend() != "jax" or not jax_is_distributed():
        return
    import jax

    jax.distributed.shutdown()  # waits for the others
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def jax_is_distributed() -> bool:
    """Whether an earlier training of this process has met the others."""
    import jax

    return bool(jax.distributed.is_initialized())


@functools.cache
def _compiled(model: keras.Model) -> Any:
    import jax

    return jax.jit(lambda *state: model.stateless_call(*state, training=False)[0])


def answers_of_one(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Return images → logits of a model as its weights are now, on this process by itself."""
    state = [
        [np.asarray(variable.value) for variable in group]
        for group in (model.trainable_variables, model.non_trainable_variables)
    ]
    return lambda images: np.asarray(_compiled(model)(*state, images))

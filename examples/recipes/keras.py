"""What the loop of Keras needs: SGD as the recipes have it, processes, and answers of models."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from .run import Processes


class SGD(keras.optimizers.SGD):
    """SGD whose weight decay is part of the gradient, as in the published recipe.

    Keras' own ``weight_decay`` shrinks the weights beside the momentum: another, weaker rule.
    """

    def __init__(self, learning_rate: float, momentum: float, decay: float) -> None:
        super().__init__(learning_rate, momentum=momentum)
        self.decay = decay

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update the variables by gradient + decay · variable."""
        variables = trainable_variables or self._trainable_variables
        grads = [
            gradient + ops.cast(self.decay * ops.convert_to_tensor(variable), gradient.dtype)
            for gradient, variable in zip(grads, variables, strict=True)
        ]
        super().apply(grads, trainable_variables)


def find_processes() -> Processes:
    """Return the processes that train together, and their devices: by `keras.distribution`."""
    if keras.backend.backend() == "jax":
        import jax

        if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ or jax.device_count() > 1:
            from .processes.keras import Devices

            return Devices()
    return Processes()


def answers_of(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return images → logits: of a Keras model as its weights are now, of a function itself."""
    if not isinstance(model, keras.Model):
        return model
    if keras.distribution.distribution() is None:
        return model.predict_on_batch
    from .processes.keras import answers_of_one

    return answers_of_one(model)

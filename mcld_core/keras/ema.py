"""The student's averaged weights as its teacher, on each of Keras' backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from mcld_core.ema import ema_decay


class EMATeacher(keras.callbacks.Callback):
    """A callback whose `model_average` has the student's weights averaged over its steps.

    Pass it to ``fit`` and its ``model_average`` to `MCLDDistiller` as the teacher; after each
    batch the average takes a step. In a loop of your own call `update`. Weights that are not
    trainable (batch statistics) are copied. Weights in half precision are averaged in float32
    beside the model, which gets them rounded.

    To resume, save `state` with the checkpoint and give it to `load_state`: it holds the averages
    and the number of updates, which the warm-up goes by.

    Args:
        student: a built model.
        model_average: a built model of the same architecture that holds the average so far, such
            as the loaded ``distiller.teacher``: its weights are kept. None: a clone of the student,
            with its weights. (For a student that ``keras.models.clone_model`` cannot clone, give
            a second one its weights by ``set_weights``.)
        decay: of `mcld_core.ema.ema_update`, 0 … 1.
        warm_up: start from a lower decay: ``min(decay, (1 + updates) / (10 + updates))``.

    Raises:
        ValueError: a decay outside 0 … 1, or models whose weights do not match.
    """

    def __init__(
        self, student: Any, model_average: Any = None, *, decay: float = 0.999, warm_up: bool = True
    ) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"EMATeacher: decay needs a number in 0 … 1; got {decay!r}")
        self.student, self.decay, self.warm_up, self.updates = student, decay, warm_up, 0
        if model_average is None:
            model_average = keras.models.clone_model(student)
            model_average.set_weights(student.get_weights())
        theirs, ours = ([tuple(w.shape) for w in m.weights] for m in (model_average, student))
        if theirs != ours:
            raise ValueError(
                "EMATeacher: model_average and student need the same weights; got "
                f"{len(theirs)} and {len(ours)} arrays of shapes {theirs} and {ours}. Build both "
                "first"
            )
        model_average.trainable = False
        self.model_average = model_average
        self._averages = [_precise(weight) for weight in model_average.weights]

    def update(self) -> None:
        """Take one step of the average towards the student's weights."""
        decay = ema_decay(self.updates, self.decay) if self.warm_up else self.decay
        trainable = {id(weight) for weight in self.student.trainable_weights}
        for average, weight in zip(self._averages, self.student.weights, strict=True):
            value = ops.cast(weight, average.dtype)
            if id(weight) in trainable:
                average.assign(decay * average + (1.0 - decay) * value)
            else:
                average.assign(ops.copy(value))  # JAX donates each buffer of a step once
        self._round()
        self.updates += 1

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the number of updates and the averages, such as for ``np.savez``."""
        arrays = {str(i): ops.convert_to_numpy(x) for i, x in enumerate(self._averages)}
        return {"updates": np.asarray(self.updates), **arrays}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, such as what ``np.load`` returns.

        Raises:
            ValueError: the state of another architecture.
        """
        names = [str(i) for i in range(len(self._averages))]
        ours = [tuple(average.shape) for average in self._averages]
        theirs = [tuple(state[name].shape) for name in names if name in state]
        if theirs != ours or len(state) != len(names) + 1:
            raise ValueError(
                f"EMATeacher: the state needs 'updates' and {len(ours)} arrays of shapes {ours}; "
                f"got {len(state)} entries with shapes {theirs}"
            )
        for name, average in zip(names, self._averages, strict=True):
            average.assign(state[name])
        self._round()
        self.updates = int(state["updates"])

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Follow the student after each batch of ``fit``."""
        _ = self.model  # on JAX, reading it brings the variables up to date with the step
        self.update()

    def _round(self) -> None:
        for average, weight in zip(self._averages, self.model_average.weights, strict=True):
            if average is not weight:
                weight.assign(ops.cast(average, weight.dtype))


def _precise(weight: Any) -> Any:
    """Return the weight itself, or a float32 variable of the same value beside a half one."""
    if weight.dtype not in ("float16", "bfloat16"):
        return weight
    return keras.Variable(ops.cast(weight, "float32"), dtype="float32", trainable=False)

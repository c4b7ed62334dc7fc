"""Losses and gradients by `gather_keys` over TensorFlow's logical devices, written to a file.

And what the guide's example for several devices does on two. Run by test_tensorflow.py:
``python -m tests.distributed.tensorflow_worker OUT``. A process of its own, because logical
devices must be made before anything runs.
"""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.tensorflow.distributed import gather_keys
from tests.distributed.replicas import Joined, joined_batches

REPLICAS = 2
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "tensorflow.md"


def main(out: str) -> None:
    """Compute all cases and write them."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * REPLICAS,
    )
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    found: dict[str, np.ndarray] = {"replicas": np.asarray(strategy.num_replicas_in_sync)}
    for joined in joined_batches(REPLICAS):
        for name, value in evaluate(strategy, joined).items():
            found[f"{joined.name}/{name}"] = value
    for name, value in run_guide(strategy).items():
        found[f"guide/{name}"] = value
    with open(f"{out}.tmp", "wb") as file:
        np.savez(file, **found)
    os.replace(f"{out}.tmp", out)


def evaluate(strategy: tf.distribute.Strategy, joined: Joined) -> dict[str, np.ndarray]:
    """Return the replicas' mean loss, its gradient by their rows, and the step of shared weights.

    The replicas' batches have different sizes; nothing is padded here.
    """
    parts = joined.parts()
    config = MCLDConfig(**joined.settings)

    def replica_values(name: str) -> Any:
        def value(context: tf.distribute.ValueContext) -> tf.Tensor:
            x = getattr(parts[context.replica_id_in_sync_group], name)
            return tf.constant(x.astype(np.float32) if x.dtype == np.float64 else x)

        if getattr(parts[0], name) is None:
            return None
        return strategy.experimental_distribute_values_from_function(value)

    names = ("student", "teacher", "labels", "sample_weight", "where")
    batch = {name: replica_values(name) for name in names}
    with strategy.scope():
        bias = tf.Variable(tf.zeros([1, joined.case.student.shape[1]]))
        optimizer = tf.keras.optimizers.SGD(1.0)
        optimizer.build([bias])

    def step(
        student: tf.Tensor, teacher: tf.Tensor, labels: Any, sample_weight: Any, where: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        mask = {"sample_weight": sample_weight, "where": where}
        keys = gather_keys(teacher, labels, **mask)
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = mcld_loss(student + bias, teacher, labels, config=config, keys=keys, **mask)
            share = loss / strategy.num_replicas_in_sync
        by_rows, by_bias = tape.gradient(share, [student, bias])
        optimizer.apply([by_bias], [bias])
        return loss, by_rows

    @partial(tf.function, autograph=False)  # tracing is half as long
    def run(batch: dict[str, Any]) -> tuple[Any, Any]:
        return strategy.run(step, kwargs=batch)

    loss, gradient = run(batch)
    return {
        "loss": strategy.reduce("MEAN", loss, axis=None).numpy(),
        "gradient": np.concatenate(
            [x.numpy() for x in strategy.experimental_local_results(gradient)]
        ),
        "shared": -bias.numpy(),
    }


def run_guide(strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    """Run the guide's code for several devices, and return what it leaves behind."""
    made = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)[-1]
    code = made.replace("= tf.distribute.MirroredStrategy()", "= two_devices")
    assert code != made
    guide: dict[str, Any] = {"two_devices": strategy}
    exec(code, guide)
    found = {name: x.numpy() for name, x in guide["bank"]._asdict().items()}
    kernel, bias = guide["student"].get_weights()
    return found | {"losses": np.asarray(guide["losses"]), "kernel": kernel, "bias": bias}


if __name__ == "__main__":
    main(sys.argv[1])

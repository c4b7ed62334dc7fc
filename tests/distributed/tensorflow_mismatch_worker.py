"""What TensorFlow's replicas raise where their arguments do not fit each other, as JSON.

Run by test_tensorflow_mismatch.py: ``python -m tests.distributed.tensorflow_mismatch_worker OUT``
has two devices; with ``RANK ADDRESS ADDRESS`` behind it, it is one of two workers.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from mcld_core.tensorflow.distributed import gather_keys

ROWS, CLASSES = 3, 4
Arguments = tuple[np.ndarray, np.ndarray | None]


def mismatches() -> dict[str, tuple[Arguments, Arguments]]:
    """Return, by name, the arguments of the first and of the second replica."""
    labels, soft = np.arange(ROWS, dtype="int32"), np.full((ROWS, CLASSES), 0.25, "float32")
    rows, wide = np.ones((ROWS, CLASSES), "float32"), np.ones((ROWS, CLASSES + 1), "float32")
    good = (rows, labels)
    return {
        "classes": (good, (wide, labels)),
        "dtype": (good, (rows.astype("float64"), labels)),
        "no labels": ((rows, None), good),
        "soft labels": ((rows, soft), good),
        "soft labels' dtype": ((rows, soft), (rows, soft.astype("float64"))),
    }


def error_of(strategy: tf.distribute.Strategy, arguments: Any, rank: int | None) -> str:
    """Run a step of the replicas in a graph, and return what it raises."""

    def step() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        number = tf.get_static_value(context.replica_id_in_sync_group) if rank is None else rank
        teacher, labels = arguments[number or 0]
        labels = None if labels is None else tf.constant(labels)
        return gather_keys(tf.constant(teacher), labels).logits

    @partial(tf.function, autograph=False)
    def run() -> Any:
        return strategy.run(step)

    try:
        run()
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def main(out: str, rank: str | None = None, *addresses: str) -> None:
    """Try all on two devices, or one as one of two workers: the graphs are out of step then."""
    if rank is None:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
        strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
        found = {name: error_of(strategy, given, None) for name, given in mismatches().items()}
    else:
        task = {"type": "worker", "index": int(rank)}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        found = {"no labels": error_of(strategy, mismatches()["no labels"], int(rank))}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(found, file)
    os._exit(0)  # a worker waits for the other one otherwise


if __name__ == "__main__":
    main(*sys.argv[1:])

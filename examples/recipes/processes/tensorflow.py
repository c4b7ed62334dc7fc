"""Several workers, GPUs or devices of the CPU, by `tf.distribute`."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from ..files import DataError
from ..run import Processes


def make_strategy(replicas: int) -> Any:
    """Return what spreads a step: over the workers of ``TF_CONFIG``, over so many devices of the
    CPU, or over all GPUs.

    Raises:
        DataError: TensorFlow has started with fewer devices of the CPU.
    """
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if replicas:
        cpu = tf.config.list_physical_devices("CPU")[0]
        try:
            devices = [tf.config.LogicalDeviceConfiguration() for _ in range(replicas)]
            tf.config.set_logical_device_configuration(cpu, devices)
        except RuntimeError:  # an earlier training of this process has set them
            if len(tf.config.list_logical_devices("CPU")) < replicas:
                raise DataError(f"--replicas {replicas}: start a new process for them") from None
        return tf.distribute.MirroredStrategy([f"/cpu:{n}" for n in range(replicas)])
    return tf.distribute.MirroredStrategy()


class Workers(Processes):
    """The processes of ``TF_CONFIG``."""

    def __init__(self, strategy: Any) -> None:
        self.alone = False
        self.sum = tf.function(
            lambda x: strategy.reduce("SUM", strategy.run(tf.identity, (x,)), axis=None)
        )

    def any(self, flag: bool) -> bool:
        """Return whether any worker says so; every worker comes, and waits."""
        return float(self.sum(tf.constant(float(flag)))) > 0

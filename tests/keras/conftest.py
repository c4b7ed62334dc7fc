"""These tests want a process of their own for each of Keras' backends.

    MCLD_TEST_BACKENDS=keras KERAS_BACKEND=tensorflow python -m pytest tests/keras

and the same with jax and torch. Keras would not run under the strict settings of JAX that the
other tests have, so any other run leaves this folder out.
"""

from __future__ import annotations

import os
import warnings

import pytest

from tests.frameworks import QUICK_XLA, REQUESTED

if REQUESTED != ["keras"]:
    collect_ignore_glob = ["test_*.py"]
else:
    if os.environ.get("KERAS_BACKEND") not in ("tensorflow", "jax", "torch"):
        raise pytest.UsageError("tests/keras: set KERAS_BACKEND to tensorflow, jax or torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if os.environ["KERAS_BACKEND"] == "jax":
        os.environ.setdefault("XLA_FLAGS", QUICK_XLA)
    with warnings.catch_warnings():  # those of the frameworks' own imports
        warnings.simplefilter("ignore")
        import keras

        if keras.backend.backend() == "torch":
            import torch

            torch.set_num_threads(1)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            two = [tf.config.LogicalDeviceConfiguration()] * 2  # for test_mirrored
            cpu = tf.config.list_physical_devices("CPU")[0]
            tf.config.set_logical_device_configuration(cpu, two)
        else:
            collect_ignore = ["test_mirrored.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let pass a warning of NumPy on how Keras itself reads its variables."""
    of_keras = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    for item in items:
        if item.path.parent.name == "keras":
            item.add_marker(pytest.mark.filterwarnings(of_keras))


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same start for each test, and NumPy arrays are the reference's."""
    monkeypatch.delenv("MCLD_BACKEND", raising=False)
    keras.utils.set_random_seed(0)

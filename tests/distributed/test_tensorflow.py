"""`gather_keys` of TensorFlow under MirroredStrategy equals one process."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.backends.tensorflow import distributed, gather_keys
from tests.distributed.replicas import RTOL, assert_equals_one_process, joined_batches
from tests.frameworks import Framework, only

ROOT = Path(__file__).parents[2]
TENSORFLOW = pytest.mark.parametrize("backend", only("tensorflow"), indirect=True)


@TENSORFLOW
def test_two_devices_equal_one_process(backend: Framework, tmp_path: Path) -> None:
    """Loss, its gradient by the student's rows, and an optimizer's step of a shared bias."""
    out = tmp_path / "devices.npz"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    worker = subprocess.run(
        [sys.executable, "-m", "tests.distributed.tensorflow_worker", out],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert worker.returncode == 0, worker.stdout + worker.stderr
    found = np.load(out)
    assert found["replicas"] == 2
    for joined in joined_batches(2):
        loss, gradient, shared = (
            found[f"{joined.name}/{name}"] for name in ("loss", "gradient", "shared")
        )
        assert_equals_one_process(joined, loss, gradient, backend)
        # a sum over the rows of entries that are equal within the tolerance
        bound = RTOL * joined.scale * len(gradient) * np.abs(gradient).max()
        assert np.abs(shared - gradient.sum(0, keepdims=True)).max() <= bound, joined.name
        if joined.name == "no kept row":
            assert loss == 0
            assert not gradient.any()


@TENSORFLOW
def test_without_a_strategy(backend: Framework) -> None:
    student, teacher = tf.eye(4), 3 * tf.eye(4)
    labels, weight = tf.constant([0, 1, -100, 3]), tf.constant([1.0, 0.5, 9.0, 2.0])
    keys = gather_keys(teacher, labels, sample_weight=weight)
    assert float(keys.normalizer) == 3.5
    found = mcld_loss(student, teacher, labels, keys=keys, sample_weight=weight)
    expected = mcld_loss(student, teacher, labels, sample_weight=weight)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@TENSORFLOW
def test_columns_raise(backend: Framework) -> None:
    logits = tf.ones((3, 4))
    config = MCLDConfig(category_contrast="columns")
    with pytest.raises(ValueError, match="'columns' cannot be used with gathered keys"):
        mcld_loss(logits, logits, config=config, keys=gather_keys(logits))


@TENSORFLOW
def test_outside_of_a_replica(backend: Framework) -> None:
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope(), pytest.raises(RuntimeError, match=r"inside the function given to str"):
        gather_keys(tf.ones((3, 4)))


@TENSORFLOW
def test_example_of_the_docstring(backend: Framework) -> None:
    tried = doctest.testmod(distributed)
    assert tried.attempted
    assert not tried.failed

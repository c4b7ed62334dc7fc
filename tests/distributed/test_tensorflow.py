"""`gather_keys` of TensorFlow under MirroredStrategy equals one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mcld_core import MCLDConfig, TeacherBank, mcld_loss
from mcld_core.tensorflow import gather_keys
from tests import processes
from tests.distributed.replicas import assert_all_equal_one_process, wrong_arguments
from tests.frameworks import Framework, only

TENSORFLOW = pytest.mark.parametrize("backend", only("tensorflow"), indirect=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the worker computed on two devices."""
    out = tmp_path_factory.mktemp("worker") / "devices.npz"
    words = ("-m", "tests.distributed.tensorflow_worker", out)
    processes.finish(processes.start(*words, CUDA_VISIBLE_DEVICES=""))
    return np.load(out)


@TENSORFLOW
def test_two_devices_equal_one_process(backend: Framework, found: Any) -> None:
    """Loss, its gradient by the student's rows, and an optimizer's step of a shared bias."""
    assert_all_equal_one_process(found, 2, backend)


@TENSORFLOW
def test_the_guide_on_two_devices(backend: Framework, found: Any) -> None:
    """Steps with a bank of gathered rows equal those of one device on the joined batches."""
    inputs = tf.random.stateless_normal([95, 20], seed=[0, 1])
    teacher = inputs @ tf.random.stateless_normal([20, 10], seed=[0, 0])
    labels = tf.argmax(teacher, 1)
    kernel, bias = tf.Variable(tf.zeros([20, 10])), tf.Variable(tf.zeros([10]))
    bank = TeacherBank.empty(capacity=512, classes=10, like=tf.zeros([]))
    config = MCLDConfig(weight_ce=1.0)
    for number, start in enumerate(range(0, 95, 32)):
        x, t, y = (values[start : start + 32] for values in (inputs, teacher, labels))
        with tf.GradientTape() as tape:
            loss = mcld_loss(x @ kernel + bias, t, y, config=config, keys=bank.keys(t, y))
        np.testing.assert_allclose(found["guide/losses"][number], loss, rtol=1e-5)
        for variable, slope in zip(
            (kernel, bias), tape.gradient(loss, (kernel, bias)), strict=True
        ):
            variable.assign_sub(0.1 * slope)
        bank = bank.push(t, y)
    np.testing.assert_allclose(found["guide/kernel"], kernel, atol=1e-6)
    np.testing.assert_allclose(found["guide/bias"], bias, atol=1e-6)
    assert int(bank.cursor) == 95
    for name, field in bank._asdict().items():
        np.testing.assert_array_equal(found[f"guide/{name}"], field, err_msg=name)


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
def test_small_integer_labels(backend: Framework) -> None:
    """In uint8 the -100 of ignore_index is 156; TensorFlow does not compare the two at all."""
    keys = gather_keys(tf.zeros((2, 200)), tf.constant([156, 1], tf.uint8))
    assert keys.where.numpy().tolist() == [True, True]
    assert keys.labels.numpy().tolist() == [156, 1]
    assert float(keys.normalizer) == 2


@TENSORFLOW
def test_errors(backend: Framework) -> None:
    for error, text, arguments in wrong_arguments(tf.constant):
        with pytest.raises(error, match=f"gather_keys: {text}"):
            gather_keys(**arguments)


@TENSORFLOW
def test_outside_of_a_replica(backend: Framework) -> None:
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope(), pytest.raises(RuntimeError, match=r"inside the function given to str"):
        gather_keys(tf.ones((3, 4)))

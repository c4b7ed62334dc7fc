"""What the gradient by block promises: what is kept, second derivatives, blocks under XLA."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet, ref

import numpy as np
import pytest

from mcld_core import MCLDConfig, kd_loss, mcld_loss
from tests.frameworks import Framework, only
from tests.tolerance import assert_gradient

BATCH, CLASSES = 600, 20


class Saved:
    """What autograd saved, alive as long as its graph is."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


def logits(seed: int, batch: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    student, teacher = 2 * rng.normal(size=(2, batch, classes))
    return student, teacher, rng.integers(0, classes, batch)


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
@pytest.mark.parametrize("block_size", [256, None])
def test_backward_keeps_the_gradient_and_no_array_of_rows_by_keys(
    backend: Framework, block_size: Any
) -> None:
    import torch

    student, teacher, labels = (backend.array(x) for x in logits(0, BATCH, CLASSES))
    student.requires_grad_()
    inputs = {x.data_ptr() for x in (student, teacher, labels)}
    saved: WeakSet[Saved] = WeakSet()

    def pack(x: Any) -> Saved:
        found = Saved(x.detach())  # with its history it would keep itself alive
        saved.add(found)
        return found

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        loss = mcld_loss(student, teacher, labels, config=MCLDConfig(block_size=block_size))
        storages = (x.tensor.untyped_storage() for x in saved)  # what the blocks saved is gone
        kept = {x.data_ptr(): x.nbytes() // 8 for x in storages if x.data_ptr() not in inputs}
        loss.backward()
    few = BATCH * CLASSES + 4 * BATCH + 100
    if block_size is None:  # the plain form keeps S and more: the measure sees it
        assert sum(kept.values()) > BATCH * BATCH
    else:
        assert sum(kept.values()) <= few


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
@pytest.mark.parametrize("loss_of", [mcld_loss, kd_loss])
def test_after_backward_the_loss_holds_no_logits(backend: Framework, loss_of: Any) -> None:
    student, teacher, _ = (backend.array(x) for x in logits(0, BATCH, 3000))  # several blocks
    student = 1.0 * student.requires_grad_()  # of a model: a leaf lives as long as the graph
    loss, seen = loss_of(student, teacher), (ref(student), ref(teacher))
    loss.backward()
    del student, teacher
    assert [x() for x in seen] == [None, None]


@pytest.mark.parametrize("backend", only("jax"), indirect=True)
def test_the_compiled_step_holds_no_array_of_rows_by_keys(backend: Framework) -> None:
    import jax

    batch = 4096

    def temporaries(block_size: Any) -> int:
        config = MCLDConfig(block_size=block_size)

        def loss(student: Any, teacher: Any, labels: Any) -> Any:
            return mcld_loss(student, teacher, labels, config=config)

        shape = jax.ShapeDtypeStruct((batch, CLASSES), np.float32)
        step = jax.jit(jax.value_and_grad(loss))
        compiled = step.lower(shape, shape, jax.ShapeDtypeStruct((batch,), np.int32)).compile()
        return int(compiled.memory_analysis().temp_size_in_bytes)

    one_array = 4 * batch * batch
    assert temporaries("auto") < one_array < temporaries(None)


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
def test_a_second_derivative_goes_through_the_plain_form_in_torch(backend: Framework) -> None:
    import torch

    student, teacher, labels = (backend.array(x) for x in logits(1, 5, 4))
    direction = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(5, 4)

    def products(block_size: Any) -> Any:
        x = student.clone().requires_grad_()
        config = MCLDConfig(block_size=block_size)
        loss = mcld_loss(x, teacher, labels, config=config)
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        (second,) = torch.autograd.grad((first * direction).sum(), x)
        return first.detach().numpy(), second.numpy()

    _compare_second(products(2), products(None))


@pytest.mark.parametrize("backend", only("jax"), indirect=True)
def test_a_second_derivative_in_jax(backend: Framework) -> None:
    import jax

    student, teacher, labels = (backend.array(x) for x in logits(1, 5, 4))
    direction = np.linspace(-1, 1, 20).reshape(5, 4)

    def products(block_size: Any) -> Any:
        config = MCLDConfig(block_size=block_size)

        def first(x: Any) -> Any:
            return jax.grad(lambda s: mcld_loss(s, teacher, labels, config=config))(x)

        second = backend.as_one(jax.grad(lambda s: (first(s) * direction).sum()))
        return np.asarray(first(student)), np.asarray(second(student))

    _compare_second(products(2), products(None))


@pytest.mark.parametrize("backend", only("tensorflow"), indirect=True)
def test_a_second_derivative_goes_through_the_plain_form_in_tensorflow(
    backend: Framework,
) -> None:
    import tensorflow as tf

    student, teacher, labels = (backend.array(x) for x in logits(1, 5, 4))
    direction = tf.constant(np.linspace(-1, 1, 20).reshape(5, 4))

    def products(block_size: Any) -> Any:
        config = MCLDConfig(block_size=block_size)
        with tf.GradientTape() as outer:
            outer.watch(student)
            with tf.GradientTape() as inner:
                inner.watch(student)
                loss = mcld_loss(student, teacher, labels, config=config)
            first = inner.gradient(loss, student)
            product = tf.reduce_sum(first * direction)
        return first.numpy(), outer.gradient(product, student).numpy()

    _compare_second(products(2), products(None))


def _compare_second(found: Any, expected: Any) -> None:
    assert_gradient(found[0], expected[0])
    assert np.abs(expected[1]).max() > 1e-3
    assert_gradient(found[1], expected[1])

"""The code of docs/guides/jax.md runs, and does what the text says of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcld_core import MCLDConfig, mcld_loss
from tests.frameworks import Framework, only

pytestmark = pytest.mark.parametrize("backend", only("jax"), indirect=True)

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "jax.md"
CODE = re.findall(r"<!-- test: jax -->\n```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
CONFIG = MCLDConfig(weight_ce=1.0)
STEP, BANK, SHARDED, MAPPED = range(1, 5)  # the blocks after the first


@pytest.fixture(scope="module")
def names() -> list[dict[str, Any]]:
    """What each block of the guide defines."""
    found: list[dict[str, Any]] = []
    for code in CODE:
        found.append({"__name__": "guide"})
        exec(code, found[-1])
    return found


def assert_equal(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def fresh(guide: dict[str, Any]) -> Any:
    params = jnp.zeros((20, 10), "float32")
    bank = guide["TeacherBank"].empty(capacity=512, classes=10, like=params)
    return guide["State"](params, guide["optimizer"].init(params), bank, jnp.asarray(0, "int32"))


def test_every_block_is_tested(backend: Framework) -> None:
    assert len(CODE) == GUIDE.read_text("utf-8").count("```python") == 5


def test_the_student_of_the_simple_step_learns(backend: Framework, names: Any) -> None:
    assert names[STEP]["accuracy"] > 0.8


def test_a_scan_is_single_steps_traced_once(backend: Framework, names: Any) -> None:
    guide = names[BANK]
    traces: list[Any] = []

    def counted(state: Any, batch: Any) -> Any:
        traces.append(batch)
        return guide["step"](state, batch)

    step, state, losses = jax.jit(counted), fresh(guide), []
    for number in range(len(guide["losses"])):
        state, loss = step(state, tuple(x[number] for x in guide["batches"]))
        losses.append(float(loss))
    assert len(traces) == 1
    np.testing.assert_allclose(losses, guide["losses"], rtol=1e-5)
    again, _ = guide["steps"](fresh(guide), guide["batches"])
    assert int(state.step) == int(again.step) == 25
    assert_equal(state.bank, again.bank)
    assert bool(state.bank.where.all())
    assert int(state.bank.cursor) == 25 * 32 % 512


def test_the_bank_is_in_the_loss(backend: Framework, names: Any) -> None:
    """The second step's keys are its own rows and the first batch's."""
    guide = names[BANK]
    state = fresh(guide)
    first, second = (tuple(x[number] for x in guide["batches"]) for number in range(2))
    step = jax.jit(guide["step"])
    state, _ = step(state, first)
    _, loss = step(state, second)
    inputs, teacher, labels = (jnp.concatenate(pair) for pair in zip(second, first, strict=True))
    settings = {"config": CONFIG, "progress": 1 / 50, "reduction": "none"}
    rows = mcld_loss(inputs @ state.params, teacher, labels, **settings)
    np.testing.assert_allclose(loss, rows[:32].mean(), rtol=1e-5)


def test_the_state_is_donated(backend: Framework, names: Any) -> None:
    guide = names[BANK]
    state = fresh(guide)
    new, _ = guide["steps"](state, guide["batches"])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


def test_a_restored_state_goes_on_bit_by_bit(backend: Framework, names: Any) -> None:
    guide = names[BANK]
    state, losses = guide["steps"](fresh(guide), guide["batches"])
    state, more_losses = guide["steps"](state, guide["batches"])
    assert_equal(guide["losses"], losses)
    assert_equal(guide["more_losses"], more_losses)
    assert_equal(guide["state"], state)


@jax.jit
def gradient(params: Any, bank: Any, inputs: Any, teacher: Any, labels: Any) -> Any:
    """The gradient on one device, without padding."""
    keys = None if bank is None else bank.keys(teacher, labels)
    settings = {"config": CONFIG, "keys": keys}
    return jax.grad(lambda w: mcld_loss(inputs @ w, teacher, labels, **settings))(params)


def one_device(guide: dict[str, Any], rows: int) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(np.asarray(x)[:rows]) for x in guide["batch"][:3])


def test_sharded_arrays_agree_with_one_device(backend: Framework, names: Any) -> None:
    expected = gradient(jnp.zeros((20, 10), "float32"), None, *one_device(names[SHARDED], 32))
    np.testing.assert_allclose(names[SHARDED]["slope"], expected, atol=1e-6)


def test_shard_map_agrees_with_one_device(backend: Framework, names: Any) -> None:
    """Two steps with a bank; the padding is in neither the loss nor the bank."""
    params = jnp.zeros((20, 10), "float32")
    bank = names[MAPPED]["TeacherBank"].empty(capacity=64, classes=10, like=params)
    inputs, teacher, labels = one_device(names[MAPPED], 30)
    for _ in range(2):
        params = params - 0.1 * gradient(params, bank, inputs, teacher, labels)
        bank = bank.push(teacher, labels)
    np.testing.assert_allclose(names[MAPPED]["params"], params, atol=1e-6)
    assert_equal(names[MAPPED]["bank"], bank)

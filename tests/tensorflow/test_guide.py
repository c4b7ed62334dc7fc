"""The code of docs/guides/tensorflow.md runs, and does what the text says of it.

That its last block does the same on two devices is in tests/distributed/test_tensorflow.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mcld_core import MCLDConfig, mcld_loss
from tests.frameworks import Framework, only

pytestmark = pytest.mark.parametrize("backend", only("tensorflow"), indirect=True)

TEXT = (Path(__file__).parents[2] / "docs" / "guides" / "tensorflow.md").read_text("utf-8")
CODE = re.findall(r"<!-- test: tensorflow -->\n```python\n(.*?)```", TEXT, re.DOTALL)
STEP, BANK, DEVICES = range(1, 4)  # the blocks after the first


@pytest.fixture(scope="module")
def names() -> list[dict[str, Any]]:
    """What each block of the guide defines."""
    found: list[dict[str, Any]] = []
    for code in CODE:
        found.append({"__name__": "guide"})
        exec(code, found[-1])
    return found


def test_every_block_is_tested(backend: Framework) -> None:
    assert len(CODE) == TEXT.count("```python") == 4


def test_the_student_of_the_simple_step_learns(backend: Framework, names: Any) -> None:
    assert names[STEP]["accuracy"] > 0.8


def test_one_trace_for_every_batch_size(backend: Framework, names: Any) -> None:
    guide = names[BANK]
    assert [batch[0].shape[0] for batch in guide["batches"]] == [30] * 26 + [20]
    assert guide["step"].experimental_get_tracing_count() == 1
    agrees = tf.argmax(guide["student"](guide["inputs"]), 1) == tf.argmax(
        guide["teacher_logits"], 1
    )
    assert np.mean(agrees) > 0.5


def test_a_restored_checkpoint_goes_on_bit_by_bit(backend: Framework, names: Any) -> None:
    guide = names[BANK]
    assert guide["same_losses"] == guide["more_losses"]
    assert guide["more_losses"] != guide["losses"]
    assert int(guide["bank"].cursor) == 2 * 800 % 512
    assert int(guide["optimizer"].iterations) == 54


@pytest.mark.parametrize("xla", [False, True])
def test_the_step_compiled_or_not_is_the_loss_with_the_bank(
    backend: Framework, names: Any, xla: bool
) -> None:
    """A graph, and one XLA program, with the bank in variables equal the eager loss."""
    guide = names[BANK]
    before = guide["TeacherBank"](*map(tf.identity, guide["bank"]))
    weights, moments = guide["student"].get_weights(), guide["optimizer"].variables
    saved = [tf.identity(variable) for variable in moments]
    inputs, teacher, labels = next(iter(guide["batches"]))
    expected = mcld_loss(
        guide["student"](inputs),
        teacher,
        labels,
        keys=before.keys(teacher, labels),
        config=MCLDConfig(weight_ce=1.0),
    )
    step = tf.function(guide["step"].python_function, jit_compile=xla, autograph=False)
    np.testing.assert_allclose(step(inputs, teacher, labels), expected, rtol=1e-5)
    pushed = before.push(teacher, labels)
    for variable, value, old in zip(guide["bank"], pushed, before, strict=True):
        np.testing.assert_array_equal(variable, value)
        variable.assign(old)
    guide["student"].set_weights(weights)
    for variable, value in zip(moments, saved, strict=True):
        variable.assign(value)


def test_several_devices(backend: Framework, names: Any) -> None:
    guide = names[DEVICES]
    assert len(guide["losses"]) == 3
    assert np.isfinite(guide["losses"]).all()
    assert guide["bank"].cursor.numpy() == 95

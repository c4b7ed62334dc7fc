"""The JAX, Keras and TensorFlow examples as two processes: they train the student of one.

PyTorch's are in `test_torch_ranks`, where torchrun starts them.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from tests import processes
from tests.examples.conftest import EXAMPLES
from tests.examples.scripts.test_training_scripts import history, weights
from tests.processes import Started, addresses, ends

WORDS = ["--teacher", "mlp-8", "--teacher-epochs", "1", "--student", "mlp-8", "--epochs", "3"]
WORDS += ["--crop", "1", "--train-size", "128", "--validation-size", "100", "--bank-size", "100"]
WORDS += ["--no-onnx"]
STEPS = 2  # an epoch

#: An example that sends itself a signal during a step of the student's training; 0: it does not.
SIGNALLED = """
import importlib, sys
import pytest
from tests.examples.scripts.test_training_scripts import signal_after
step, number = int(sys.argv[2]), int(sys.argv[3])
if step:
    signal_after(step, number, pytest.MonkeyPatch())
sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[4:]))
"""


def places(script: str) -> list[dict[str, str]]:
    """Return what tells each of two processes its place: what a launcher sets."""
    one, two = addresses(2)
    if script == "tf_imagenet":
        cluster = {"worker": [one, two]}
        tasks = [{"type": "worker", "index": rank} for rank in range(2)]
        return [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks]
    address, count, number = {
        "keras_cifar100": tuple(
            f"KERAS_DISTRIBUTION_{x}" for x in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
        ),
    }[script]
    return [{address: one, count: "2", number: str(rank)} for rank in range(2)]


def start(
    script: str, folder: Path, name: str, place: dict[str, str], *more: str, step: int = 0,
    number: int = 0,
) -> Started:  # fmt: skip
    """Start one process.

    Each compiles by itself: on CPUs, processes that read the step from JAX's cache of compiled
    programs can wait for each other for ever.
    """
    fixed = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    fixed |= {"KERAS_BACKEND": "tensorflow" if script == "tf_imagenet" else "jax"}
    fixed |= {"PYTHONPATH": f"{EXAMPLES}:{EXAMPLES.parent}", "MCLD_TEST_BACKENDS": "numpy"}
    words = [script, str(step), str(number), *WORDS, *more, "--out", str(folder / name)]
    return processes.start("-c", SIGNALLED, *words, **(fixed | place))


@pytest.mark.parametrize(
    ("script", "number"),
    [
        ("keras_cifar100", signal.SIGTERM),
        ("tf_imagenet", signal.SIGTERM),
    ],
)
def test_two_processes_equal_one_and_are_resumed(
    script: str, number: signal.Signals, tmp_path: Path
) -> None:
    """In the second of three epochs both are killed; or one is asked to stop, and both do."""
    out, killed = tmp_path / "two", number == signal.SIGKILL
    first, second = places(script)
    one = start(script, tmp_path, "two", first, step=STEPS + 1 if killed else 0, number=number)
    two = start(script, tmp_path, "two", second, step=STEPS + 1, number=number)
    found = ends([one, two], 400)
    assert [end[0] for end in found] == [-number if killed else 130] * 2, found
    assert not list(out.glob("last.*"))
    if not killed:
        assert "stopped after epoch 2/3; the state is saved" in found[0][2]
        assert "Go on with" not in found[1][2]  # one speaks

    pair = [start(script, tmp_path, "two", place, "--resume") for place in places(script)]
    found = ends([*pair, start(script, tmp_path, "one", {})], 400)
    assert [end[0] for end in found] == [0, 0, 0], found
    assert f"resumed after epoch {1 if killed else 2}/3" in found[0][1]
    assert "by mcld" not in found[1][1]
    alone, together = weights(tmp_path / "one"), weights(out)
    assert alone.keys() == together.keys()
    for name in alone:
        np.testing.assert_allclose(together[name], alone[name], rtol=0, atol=1e-5, err_msg=name)
    for ours, theirs in zip(history(out), history(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)

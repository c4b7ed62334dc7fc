"""The PyTorch recipe under torchrun: two processes train the student of one, and resume exactly."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch_cifar100
from recipes.checkpoints import load_torch

from tests import processes
from tests.examples.conftest import EXAMPLES
from tests.examples.scripts.test_training_scripts import assert_equal_weights, history, weights

ARGUMENTS = ["--teacher", "mlp-8", "--teacher-epochs", "1", "--student", "mlp-8", "--epochs", "3"]
ARGUMENTS += ["--bank-size", "64", "--crop", "1", "--device", "cpu", "--no-onnx"]
# full batches: else a bank drops other rows of the last batch than one process does
ARGUMENTS += ["--train-size", "512"]
STEPS = 8  # an epoch
torchrun = partial(processes.torchrun, 2, PYTHONWARNINGS="default")

#: The example, whose ranks all get a signal after a step of the student, as "15 1 2" says: which,
#: epoch and step, counted from 0. Ctrl-C (2) goes to torchrun, which passes it on.
SIGNALLED = f"""
import os, sys, time
sys.path.insert(0, {str(EXAMPLES)!r})
import torch_cifar100
from recipes import run, watching

number, *place = map(int, sys.argv[1].split())
if number != 2:
    run.CHECK_EVERY = 1  # ask after each step, not after each 50
training = torch_cifar100.Training
step, hear, heard = training.train_step, watching.Watcher.hear, []

def noted(*rest):
    heard.append(True)
    hear(*rest)

def signalling(self, *rest):
    added = step(self, *rest)
    if self.options.method != "mcld" or [self.run.epoch, self.run.step] != place:
        return added
    if number != 2:
        os.kill(os.getpid(), number)
        return added
    if self.ranks.rank == 0:
        os.kill(os.getppid(), number)
    while not heard:
        time.sleep(0.01)
    return added

watching.Watcher.hear = noted
training.train_step = signalling
sys.argv = ["example.py", *sys.argv[2:]]
sys.exit(torch_cifar100.main())
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole example, uninterrupted, by two ranks."""
    out = tmp_path_factory.mktemp("two")
    done = torchrun(EXAMPLES / "torch_cifar100.py", *ARGUMENTS, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mlp-8 by mcld: test") == 1  # one rank speaks
    return out


def test_two_processes_train_the_student_of_one(two: Path, tmp_path: Path) -> None:
    assert torch_cifar100.main([*ARGUMENTS, "--out", str(tmp_path)]) == 0
    for folder in (".", "teacher"):
        one, other = (weights(out / folder) for out in (tmp_path, two))
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=2e-4, atol=2e-5)


def test_batch_norm_over_all_processes_is_that_of_one(tmp_path: Path) -> None:
    """With --sync-bn; without it, each process normalises by its own rows."""
    words = ["--student", "conv-4", "--method", "ce", "--epochs", "2", "--lr", "0.01"]
    words += ["--train-size", "256", "--device", "cpu", "--no-onnx"]
    assert torch_cifar100.main([*words, "--out", str(tmp_path / "one")]) == 0
    for name, more in (("shared", ["--sync-bn"]), ("own", [])):
        script, out = str(EXAMPLES / "torch_cifar100.py"), str(tmp_path / name)
        done = torchrun(script, *words, *more, "--out", out)
        assert done.returncode == 0, done.stderr
    one, shared, own = (weights(tmp_path / name) for name in ("one", "shared", "own"))
    for name in one:
        np.testing.assert_allclose(one[name], shared[name], rtol=1e-5, atol=1e-5, err_msg=name)
    assert max(float(np.abs(one[name] - own[name]).max()) for name in one) > 1e-3


def test_stopped_then_killed_in_an_epoch_and_resumed_equals_uninterrupted(
    two: Path, tmp_path: Path
) -> None:
    """Ctrl-C and SIGTERM save, kill -9 goes back to the epoch's start; the end is the same."""
    script, out = tmp_path / "signalled.py", tmp_path / "out"
    script.write_text(SIGNALLED)
    path = out / "checkpoint.pt"

    stopped = torchrun(script, "2 0 2", *ARGUMENTS, "--out", str(out))
    assert stopped.returncode != 0
    assert "stopped after epoch 1/3; the state is saved" in stopped.stderr  # it has < 50 steps
    again = f"Go on with: torchrun --nproc-per-node 2 example.py {' '.join(ARGUMENTS)} --out {out}"
    assert stopped.stderr.count(f"{again} --resume\n") == 1  # one rank speaks
    state = load_torch(path)
    assert (state["epoch"], state["step"]) == (1, 0)

    stopped = torchrun(script, "15 1 2", *ARGUMENTS, "--resume", "--out", str(out))
    assert stopped.returncode != 0
    assert "stopped in epoch 2/3 after step 3; the state is saved" in stopped.stderr
    state = load_torch(path)
    assert (state["epoch"], state["step"]) == (1, 3)
    assert float(state["sums"]["rows"]) == 3 * 512 / STEPS  # of both ranks

    killed = torchrun(script, "9 2 4", *ARGUMENTS, "--resume", "--out", str(out))
    assert "resumed after epoch 1/3" in killed.stdout
    assert killed.returncode != 0
    state = load_torch(path)
    assert (state["epoch"], state["step"]) == (2, 0)
    assert not (out / "last.pt").exists()

    resumed = torchrun(script, "0", *ARGUMENTS, "--resume", "--out", str(out))
    assert resumed.returncode == 0, resumed.stderr
    for folder in (".", "teacher"):
        assert_equal_weights(out / folder, two / folder)
    for ours, theirs in zip(history(out), history(two), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)

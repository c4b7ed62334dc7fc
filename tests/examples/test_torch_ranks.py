"""The PyTorch recipe under torchrun: two processes train the student of one, and resume exactly."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch_cifar100
from recipes import comparison, torch_checkpoints

from tests.examples.conftest import EXAMPLES

ARGUMENTS = ["--teacher", "mlp-8", "--teacher-epochs", "1", "--student", "mlp-8", "--epochs", "3"]
ARGUMENTS += ["--methods", "mcld", "--bank-size", "64", "--crop", "1", "--device", "cpu"]
# full batches: else a bank drops other rows of the last batch than one process does
ARGUMENTS += ["--train-size", "512"]
STEPS = 8  # an epoch

#: The example, whose ranks all get a signal after a step of the student, as "15 1 2" says: which,
#: epoch and step, counted from 0. Ctrl-C (2) goes to torchrun, which passes it on.
SIGNALLED = f"""
import os, sys, time
sys.path.insert(0, {str(EXAMPLES)!r})
import torch_cifar100
from recipes import comparison, logs, torch_onnx, torch_training

number, *place = map(int, sys.argv[1].split())
comparison.write_report = lambda *rest: None
torch_onnx.export_student = lambda *rest: None
if number != 2:
    torch_training.CHECK_EVERY = 1  # ask after each step, not after each 50
step, request, heard = torch_training.Training._step, logs.StopSignal._request, []

def noted(*rest):
    heard.append(True)
    request(*rest)

def signalling(self, *rest):
    step(self, *rest)
    if self.job.method != "mcld" or [self.epoch, self.step] != place:
        return
    if number != 2:
        return os.kill(os.getpid(), number)
    if self.ranks.first:
        os.kill(os.getppid(), number)
    while not heard:
        time.sleep(0.01)

logs.StopSignal._request = noted
torch_training.Training._step = signalling
sys.argv = ["example.py", *sys.argv[2:]]
sys.exit(torch_cifar100.main())
"""


def torchrun(*script: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    command = [sys.executable, *launcher, *script]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole example, uninterrupted, by two ranks."""
    out = tmp_path_factory.mktemp("two")
    done = torchrun(str(EXAMPLES / "torch_cifar100.py"), *ARGUMENTS, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| mcld |") == 1  # one rank speaks
    assert (out / "report.html").exists()
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch_checkpoints.load(folder / "last.pt")["model"]
    return state


def test_two_processes_train_the_student_of_one(two: Path, tmp_path: Path, quick_end: None) -> None:
    assert torch_cifar100.main([*ARGUMENTS, "--out", str(tmp_path)]) == 0
    for method in ("teacher", "mcld"):
        one, other = (weights(out / "seed0" / method) for out in (tmp_path, two))
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=2e-4, atol=2e-5)


def log(out: Path) -> list[dict[str, float]]:
    with open(out / "seed0" / "mcld" / "log.csv") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    for row in rows:
        del row["seconds"]
    return rows


def test_on_several_machines_the_command_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert comparison.command_to_resume(["a.py", "--resume"]) == "python a.py --resume"
    known = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    wanted = "torchrun --nnodes 2 --nproc-per-node 4 'a b.py' --resume"
    assert comparison.command_to_resume(["a b.py"]) == wanted


def test_stopped_then_killed_in_an_epoch_and_resumed_equals_uninterrupted(
    two: Path, tmp_path: Path
) -> None:
    """Ctrl-C and SIGTERM save, kill -9 goes back to the epoch's start; the end is the same."""
    script, out = tmp_path / "signalled.py", tmp_path / "out"
    script.write_text(SIGNALLED)
    path = out / "seed0" / "mcld" / "checkpoint.pt"

    stopped = torchrun(str(script), "2 0 2", *ARGUMENTS, "--out", str(out))
    assert stopped.returncode != 0
    assert "stopped after epoch 1/3; the state is saved" in stopped.stderr  # it has < 50 steps
    again = f"Go on with: torchrun --nproc-per-node 2 example.py {' '.join(ARGUMENTS)} --out {out}"
    assert stopped.stderr.count(f"{again} --resume\n") == 1  # one rank speaks
    state = torch_checkpoints.load(path)
    assert (state["epoch"], state["step"]) == (1, 0)

    stopped = torchrun(str(script), "15 1 2", *ARGUMENTS, "--resume", "--out", str(out))
    assert stopped.returncode != 0
    assert "stopped in epoch 2/3 after step 3; the state is saved" in stopped.stderr
    state = torch_checkpoints.load(path)
    assert (state["epoch"], state["step"]) == (1, 3)
    assert float(state["sums"]["rows"]) == 3 * 512 / STEPS  # of both ranks

    killed = torchrun(str(script), "9 2 4", *ARGUMENTS, "--resume", "--out", str(out))
    assert "resumed after epoch 1/3" in killed.stdout
    assert killed.returncode != 0
    state = torch_checkpoints.load(path)
    assert (state["epoch"], state["step"]) == (2, 0)
    assert not (out / "seed0" / "mcld" / "last.pt").exists()

    resumed = torchrun(str(script), "0", *ARGUMENTS, "--resume", "--out", str(out))
    assert resumed.returncode == 0, resumed.stderr
    for method in ("teacher", "mcld"):
        one, other = (weights(folder / "seed0" / method) for folder in (out, two))
        for name in one:
            assert torch.equal(one[name], other[name]), name
    for ours, theirs in zip(log(out), log(two), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)

"""A run that is killed between two steps goes on with the losses of one that was not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.frameworks import Framework, only


def worker(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "tests.jax.resume_worker",
            folder,
            *arguments,
        ],
        cwd=Path(__file__).parents[2],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("backend", only("jax"), indirect=True)
def test_losses_are_equal_after_a_kill(backend: Framework, tmp_path: Path) -> None:
    whole = worker(tmp_path / "whole", "7")
    killed = worker(tmp_path / "killed", "7", "4")
    expected, error = whole.communicate(timeout=240)
    assert whole.returncode == 0, error
    before, _ = killed.communicate(timeout=240)
    assert killed.returncode == -9
    resumed = worker(tmp_path / "killed", "7")
    after, error = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, error
    assert (len(before.split()), len(after.split())) == (4, 3)
    assert before.split() + after.split() == expected.split()

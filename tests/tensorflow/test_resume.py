"""A run that is killed between two steps goes on with the losses of one that was not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frameworks import Framework, only
from tests.tensorflow.resume_worker import train


@pytest.mark.parametrize("backend", only("tensorflow"), indirect=True)
def test_losses_are_equal_after_a_kill(backend: Framework, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    killed = subprocess.run(
        [sys.executable, "-m", "tests.tensorflow.resume_worker", folder, "7", "4"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    before, after = killed.stdout.split(), train(str(folder), 7)
    assert (len(before), len(after)) == (4, 3)
    assert before + after == train(str(tmp_path / "whole"), 7)

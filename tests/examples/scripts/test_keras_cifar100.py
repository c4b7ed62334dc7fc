"""The Keras recipe, in a process for each of Keras' backends: all of it on one, less on two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES

SUITE = Path(__file__).parent / "keras_suite.py"
BACKENDS = os.environ.get("MCLD_TEST_KERAS_BACKEND", "torch,tensorflow,jax").split(",")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_suite_passes_on(backend: str) -> None:
    selection = [] if backend == "torch" else ["-k", "ctrl_c or decay"]
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "MCLD_TEST_BACKENDS": "numpy",  # the frameworks of the other tests need not be imported
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SUITE), *selection],
        env=environment, cwd=SUITE.parents[3], capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"keras on {backend}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    assert ("9 passed" if backend == "torch" else "3 passed") in done.stdout


def test_tensorflow_traces_nothing_anew(tmp_path: Path) -> None:
    """Splits of all sizes are answered in batches of one size, or TensorFlow would warn."""
    arguments = [
        "--teacher",
        "mlp-8",
        "mlp-4",
        "mlp-2",
        "--teacher-epochs",
        "1",
        "--student",
        "mlp-8",
        "--no-onnx",
    ]
    arguments += ["--epochs", "1", "--train-size", "500", "--method", "kd"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "keras_cifar100.py"), *arguments, "--out", str(tmp_path)],
        env=os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "retracing" not in done.stderr

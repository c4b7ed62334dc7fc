"""Keras students: one process for each of Keras' backends, which cannot change in a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "keras_suite.py"
BACKENDS = tuple(os.environ.get("MCLD_TEST_KERAS_BACKEND", "torch,tensorflow,jax").split(","))


def run(backend: str) -> subprocess.CompletedProcess[str]:
    """Run the suite on one backend."""
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "MCLD_TEST_BACKENDS": "numpy",  # the frameworks of the other tests need not be imported
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SUITE)],
        env=environment, cwd=SUITE.parents[3], capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """The suite on each backend; two of them run at a time."""
    pool = ThreadPoolExecutor(2)
    yield {backend: pool.submit(run, backend) for backend in BACKENDS}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_suite_passes_on(
    backend: str, runs: dict[str, Future[subprocess.CompletedProcess[str]]]
) -> None:
    done = runs[backend].result()
    assert done.returncode == 0, f"keras on {backend}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    assert re.search(r"^15 passed in", done.stdout, re.M), done.stdout  # nothing skipped

"""Keras' script, in a process for each of Keras' backends: all of it on one, less on two."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import processes

SUITE = Path(__file__).parent / "keras_suite.py"
BACKENDS = os.environ.get("MCLD_TEST_KERAS_BACKEND", "torch,tensorflow,jax").split(",")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_suite_passes_on(backend: str) -> None:
    chosen = [] if backend == "torch" else ["-k", "same_bits"]
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", SUITE, *chosen]
    # the frameworks of the other tests need not be imported
    more = {"KERAS_BACKEND": backend, "MCLD_TEST_BACKENDS": "numpy"}
    ((status, said, errors),) = processes.ends([processes.start(*words, **more)], 1800)
    assert status == 0, f"keras on {backend}:\n{said[-6000:]}{errors[-2000:]}"
    assert ("7 passed" if backend == "torch" else "1 passed") in said

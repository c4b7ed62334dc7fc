"""`gather_keys` of JAX on four devices and on two processes equals one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mcld_core.jax import gather_keys
from tests import processes
from tests.distributed.replicas import assert_all_equal_one_process, wrong_arguments
from tests.frameworks import QUICK_XLA, Framework, only
from tests.processes import Started

JAX = pytest.mark.parametrize("backend", only("jax"), indirect=True)


def start(out: Path, devices: int, *arguments: str) -> Started:
    """Start one worker process with so many host devices."""
    flags = f"{QUICK_XLA} --xla_force_host_platform_device_count={devices}"
    words = ("-W", "error", "-m", "tests.distributed.jax_worker", out, *arguments)
    return processes.start(*words, XLA_FLAGS=flags, JAX_PLATFORMS="cpu", JAX_ENABLE_X64="0")


def four_devices(folder: Path) -> Path:
    out = folder / "devices.npz"
    processes.finish(start(out, 4))
    return out


def two_processes(folder: Path) -> Path:
    out = folder / "processes.npz"
    (address,) = processes.addresses(1)
    processes.finish(*(start(out, 1, str(number), "2", address) for number in range(2)))
    return out


@JAX
@pytest.mark.parametrize(("run", "replicas"), [(four_devices, 4), (two_processes, 2)])
def test_equals_one_process(
    backend: Framework, run: Callable[[Path], Path], replicas: int, tmp_path: Path
) -> None:
    """Loss, its gradient by the student's rows, and by a bias that all replicas share."""
    found = np.load(run(tmp_path))
    assert_all_equal_one_process(found, replicas, backend)


@JAX
def test_small_integer_labels(backend: Framework) -> None:
    """In uint8 the -100 of ignore_index is 156."""
    keys = jax.vmap(partial(gather_keys, axis_name="data"), axis_name="data")(
        jnp.zeros((1, 2, 200)), jnp.asarray([[156, 1]], "uint8")
    )
    assert keys.labels.tolist() == [[156, 1]]
    assert keys.normalizer.tolist() == [2]


@JAX
def test_errors(backend: Framework) -> None:
    for error, text, arguments in wrong_arguments(jnp.asarray):
        with pytest.raises(error, match=f"gather_keys: {text}"):
            gather_keys(**arguments, axis_name="data")

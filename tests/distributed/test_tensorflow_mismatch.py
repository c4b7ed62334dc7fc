"""Replicas whose arguments do not fit each other raise, all of them, and say what differs."""

from __future__ import annotations

import json
from pathlib import Path

from tests import processes
from tests.distributed.test_tensorflow import TENSORFLOW
from tests.frameworks import Framework
from tests.processes import Started

WANTED = (
    "gather_keys: the number of classes, the dtype of teacher_logits and the kind of labels need "
    "to be the same on every replica; got "
)
GOOD = "4 classes in float32 with labels int32"


def start(out: Path, *arguments: str) -> Started:
    """Start a worker."""
    words = ("-m", "tests.distributed.tensorflow_mismatch_worker", out, *arguments)
    return processes.start(*words, CUDA_VISIBLE_DEVICES="")


def finish(out: Path, worker: Started) -> dict[str, str]:
    """Return the errors that a worker found."""
    processes.finish(worker)
    return json.loads(out.read_text("utf-8"))


@TENSORFLOW
def test_devices_that_differ_raise(backend: Framework, tmp_path: Path) -> None:
    """When the step is traced, before anything crosses: what crosses pairs by its order alone."""
    found = finish(tmp_path / "errors", start(tmp_path / "errors"))
    expected = {
        "classes": f"{GOOD} and 5 classes in float32 with labels int32",
        "dtype": f"{GOOD} and 4 classes in float64 with labels int32",
        "no labels": f"4 classes in float32 with labels None and {GOOD}",
        "soft labels": f"4 classes in float32 with labels float32 and {GOOD}",
        "soft labels' dtype": "4 classes in float32 with labels float32 and 4 classes in float32 "
        "with labels float64",
    }
    assert list(found) == list(expected)
    for name, text in expected.items():
        assert f"ValueError: {WANTED}{text}" in found[name], name


@TENSORFLOW
def test_workers_that_differ_raise(backend: Framework, tmp_path: Path) -> None:
    """Two processes: the first has no labels."""
    addresses = processes.addresses(2)
    outs = [tmp_path / "0", tmp_path / "1"]
    workers = [start(out, str(rank), *addresses) for rank, out in enumerate(outs)]
    for out, worker in zip(outs, workers, strict=True):
        found = finish(out, worker)["no labels"]
        assert found.startswith("InvalidArgumentError")
        assert WANTED in found
        assert "[4 1 0][4 1 3]" in found

"""The JAX example beyond what every script does: devices, processes, teachers, dropout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax_cifar100
import numpy as np
import pytest
from flax import nnx
from recipes.jax import save_model
from recipes.models.jax import build

from mcld_core import export_onnx
from tests.examples.conftest import EXAMPLES
from tests.examples.scripts.test_training_scripts import assert_equal_weights, signal_after, weights

SMALL = ["--teacher-epochs", "1", "--student", "mlp-8", "--epochs", "2", "--no-onnx"]
TEACHER = ["--teacher", "mlp-16"]
pytestmark = pytest.mark.usefixtures("plain_jax")


@pytest.fixture(autouse=True, scope="module")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Most of these tests compile the same programs, here and in processes of their own."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(names, (folder, 0.0), strict=True):
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


def run(out: Path, *arguments: str) -> int:
    teacher = [] if "--teacher" in arguments else TEACHER
    return jax_cifar100.main([*SMALL, *teacher, *arguments, "--out", str(out)])


def process(
    out: Path, *arguments: str, flags: str = "", **environment: str
) -> subprocess.Popen[str]:
    script = [sys.executable, str(EXAMPLES / "jax_cifar100.py"), *SMALL, *TEACHER, *arguments]
    variables = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | environment
    return subprocess.Popen(
        [*script, "--out", str(out)], env=variables, stderr=subprocess.PIPE, text=True
    )


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert first
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=0, atol=tolerance, err_msg=name)


def test_four_devices_equal_one(tmp_path: Path) -> None:
    """Batches of 64 are split over the devices, the last one of 54 is not."""
    extra = ["--student", "conv-2", "--crop", "0", "--train-size", "246", "--bank-size", "100"]
    flags = "--xla_force_host_platform_device_count=4"
    four = process(tmp_path / "four", *extra, flags=flags)
    _, error = four.communicate(timeout=600)
    assert four.returncode == 0, error
    assert run(tmp_path / "one", *extra) == 0
    assert_close(tmp_path / "one", tmp_path / "four", 1e-4)


def test_the_teachers_answers_are_kept_and_used(tmp_path: Path) -> None:
    """The second run loads the teacher, too; both train the same student."""
    arguments = ["--crop", "0", "--teacher-cache", str(tmp_path / "cache")]
    assert run(tmp_path / "one", *arguments) == 0
    (path,) = (tmp_path / "cache").iterdir()
    written = path.stat().st_mtime_ns
    arguments += ["--teacher-weights", str(tmp_path / "one" / "teacher" / "last.npz")]
    assert run(tmp_path / "two", *arguments) == 0
    assert path.stat().st_mtime_ns == written
    assert_equal_weights(tmp_path / "one", tmp_path / "two")
    path.write_bytes(path.read_bytes()[:200])
    assert run(tmp_path / "three", *arguments) == 2


def test_a_teacher_in_the_step_answers_as_its_table(tmp_path: Path) -> None:
    """Images that move by nothing: the teacher runs in each step, and says the same."""
    assert run(tmp_path / "table") == 0
    weights_of = ["--teacher-weights", str(tmp_path / "table" / "teacher" / "last.npz")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.data.augment", lambda images, *_: images)
        assert run(tmp_path / "step", *weights_of, "--crop", "1") == 0
    assert_close(tmp_path / "table", tmp_path / "step", 1e-5)


def test_an_onnx_file_teaches_as_its_model_does_and_several_teach_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two equal teachers are one; the second wants its pixels in another normalisation."""
    model = build("mlp-16", (8, 8, 1), 10, seed=3)
    model.eval()
    _, params, others = nnx.split(model, nnx.Param, ...)
    save_model(tmp_path / "teacher.npz", *map(nnx.to_pure_dict, (params, others)), {})
    file = tmp_path / "teacher.onnx"
    export_onnx(model, file, input_shape=(8, 8, 1), metadata={"layout": "NHWC"})
    alone = ["--teacher-weights", str(tmp_path / "teacher.npz"), "--crop", "1"]
    assert run(tmp_path / "model", *alone) == 0
    assert "warning: the teacher is hardly better than chance" in capsys.readouterr().out
    assert run(tmp_path / "file", "--teacher", str(file), "--crop", "1") == 0
    assert_close(tmp_path / "model", tmp_path / "file", 1e-4)
    assert run(tmp_path / "both", "--teacher", str(file), str(file), "--crop", "1") == 0
    assert_close(tmp_path / "model", tmp_path / "both", 1e-4)
    moved = ["--teacher-mean", "0.1", "--teacher-std", "0.2"]
    assert run(tmp_path / "moved", *alone, *moved) == 0
    with pytest.raises(AssertionError):
        assert_close(tmp_path / "model", tmp_path / "moved", 1e-3)


OWN = """
from flax import nnx


def small(seed, classes):
    rngs = nnx.Rngs(seed)
    return nnx.Sequential(
        lambda x: x.reshape(len(x), -1), nnx.Linear(64, 16, rngs=rngs), nnx.relu,
        nnx.Dropout(0.3, rngs=rngs), nnx.Linear(16, classes, rngs=rngs),
    )
"""


def test_an_own_student_with_dropout_is_resumed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of its dropout come back with the rest."""
    (tmp_path / "own_jax_models.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["--student", "own_jax_models:small"]
    with monkeypatch.context() as patch:
        signal_after(22, signal.SIGINT, patch)
        assert run(tmp_path / "stopped", *arguments) == 130
    assert run(tmp_path / "stopped", *arguments, "--resume") == 0
    assert run(tmp_path / "whole", *arguments) == 0
    assert_equal_weights(tmp_path / "stopped", tmp_path / "whole")

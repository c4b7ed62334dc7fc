"""JAX's script: a resume gives the same bits, two devices are one, mixed labels."""

from __future__ import annotations

import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import jax_cifar100
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from tests import processes
from tests.examples.conftest import EXAMPLES
from tests.examples.stopping import assert_said_in_one_line, killed, stop_after

pytestmark = [
    pytest.mark.usefixtures("plain_jax", "no_export"),
    pytest.mark.filterwarnings("ignore"),
]
NET = "tests.examples.test_jax_cifar100:Net"
SMALL = ["--dataset", "digits", "--train-size", "64", "--batch-size", "16", "--epochs", "3",
         "--recipe", "vit", "--student", NET, "--teacher", NET, "--bank-size", "24"]  # fmt: skip


class Net(nnx.Module):
    """A network of the reader's own: what is quick to compile, with statistics and dropout."""

    def __init__(self, classes: int, rngs: nnx.Rngs) -> None:
        self.first, self.norm = nnx.Linear(64, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)
        self.dropout, self.last = nnx.Dropout(0.1, rngs=rngs), nnx.Linear(16, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.first(x.reshape(len(x), -1))))
        return self.last(self.dropout(x))


def run(*words: str, out: Path) -> int:
    return jax_cifar100.main([*SMALL, *words, "--out", str(out)])


def weights(out: Path) -> dict[str, np.ndarray]:
    return load_file(out / "model.safetensors")


def test_stopped_then_killed_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(out=tmp_path / "whole") == 0
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        stop_after(patched, 6, signal.SIGINT)
        assert run("--workers", "1", out=out) == 130
    assert (out / "state" / "6").is_dir()

    words = ["-c", killed("jax_cifar100"), "5", *SMALL, "--resume", "--out", out]
    ((status, _, errors),) = processes.ends([processes.start(*words)], 900)
    assert status == -9, errors
    done = [path.name for path in (out / "state").iterdir() if path.name.isdigit()]
    assert done in (["6"], ["8"], ["6", "8"], ["8", "6"])  # 8 was being written, or was written

    assert run("--resume", out=out) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(out)
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_two_devices_train_the_student_of_one(tmp_path: Path) -> None:
    """With batch norm, which is over the whole batch."""
    words = [*SMALL, "--recipe", "cifar", "--lr", "0.01"]
    assert jax.device_count() == 1
    assert jax_cifar100.main([*words, "--out", str(tmp_path / "one")]) == 0
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    code = f"import sys; sys.path[:0] = [{str(EXAMPLES)!r}]; import common, jax_cifar100, jax; "
    code += "assert jax.device_count() == 2; common.finish = lambda *rest: None; "
    code += "sys.exit(jax_cifar100.main(sys.argv[1:]))"
    two = processes.start("-c", code, *words, "--out", tmp_path / "two", **env)
    ((status, _, errors),) = processes.ends([two], 900)
    assert status == 0, errors
    one, other = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=2e-3, atol=2e-4, err_msg=name)


def test_mixed_pictures_have_the_labels_of_their_parts_and_exports(tmp_path: Path) -> None:
    """Pictures of one grey each, the value of their class: pixels' mean is the labels' mean."""
    labels = jax.nn.one_hot(jnp.arange(8) % 4, 4)
    values = jnp.arange(4) / 3
    pixels = jnp.broadcast_to((labels @ values)[:, None, None, None], (8, 16, 16, 1))
    shares = set()
    for seed in range(6):
        mixed, soft = jax_cifar100.mix(pixels, labels, jax.random.key(seed))
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), soft @ values, atol=1e-5)
        np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
        shares.add(round(float(soft[0, 0]), 3))
    assert len(shares) > 3
    for student, file in (("vit-8", "student.onnx"), (NET, "results.json")):  # `len(x)` fails
        out, words = tmp_path / student, ["--method", "ce", "--epochs", "1", "--student", student]
        assert (run(*words, out=out), (out / file).is_file()) == (0, True)


def test_bad_input_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {
        "--batch-size=999": "--batch-size 999 is more than 64",
        "--teacher-weights=no.safetensors": "no.safetensors cannot be read: No such file",
        f"--teacher-weights={__file__}": "py cannot be read: Error while deserializing header",
    }
    assert_said_in_one_line(run, wrong, tmp_path, capsys)

"""What an extra is for, in an environment that has it alone: ``python smoke.py EXTRA FOLDER``.

Run away from the repository, so that the installed wheel is what is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import mcld_core

ROOT = Path(__file__).resolve().parents[1]
LOGITS, LABELS = 5 * np.eye(3, dtype="float32"), np.arange(3)
EXPECTED = float(mcld_core.mcld_loss(np.eye(3), LOGITS.astype("float64"), LABELS))


def check(loss: float, gradient: np.ndarray) -> None:
    """Compare with NumPy's value; a descent direction has a gradient."""
    np.testing.assert_allclose(loss, EXPECTED, rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 1e-3


def torch() -> None:
    """A loss and its gradient."""
    import torch

    student = torch.eye(3, requires_grad=True)
    loss = mcld_core.mcld_loss(student, torch.tensor(LOGITS), torch.tensor(LABELS))
    loss.backward()
    check(loss.item(), student.grad.numpy())


def tensorflow() -> None:
    """A loss and its gradient."""
    import tensorflow as tf

    student = tf.Variable(tf.eye(3))
    with tf.GradientTape() as tape:
        loss = mcld_core.mcld_loss(student, tf.constant(LOGITS), tf.constant(LABELS))
    check(float(loss), tape.gradient(loss, student).numpy())


def jax() -> None:
    """A loss and its gradient, compiled."""
    import jax
    import jax.numpy as jnp

    step = jax.jit(jax.value_and_grad(mcld_core.mcld_loss))
    loss, gradient = step(jnp.eye(3), jnp.asarray(LOGITS), jnp.asarray(LABELS))
    check(float(loss), np.asarray(gradient))


def keras() -> None:
    """A model that is compiled and fitted."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    from mcld_core.keras import MCLDLoss

    targets = np.concatenate([LOGITS, LABELS[:, None]], axis=-1).astype("float32")
    layer = keras.layers.Dense(3, kernel_initializer="identity")
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(keras.optimizers.SGD(0.1), loss=MCLDLoss())
    first, last = model.fit(LOGITS / 5, targets, epochs=2, verbose=0).history["loss"]
    np.testing.assert_allclose(first, EXPECTED, rtol=1e-5)
    assert last < first


def onnx() -> None:
    """A student's verified file, with its metadata."""
    import onnxruntime
    import torch

    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    metadata = {"teacher": "wide"}
    print(mcld_core.export_onnx(student, "s.onnx", input_shape=(1, 8, 8), metadata=metadata))
    known = onnxruntime.InferenceSession("s.onnx").get_modelmeta().custom_metadata_map
    assert known["teacher"] == "wide"


def examples() -> None:
    """One that takes nothing but the extra, for an epoch."""
    script = ROOT / "examples" / "noisy_teacher.py"
    small = ["--seeds", "0", "--epochs", "1", "--teacher-epochs", "1"]
    subprocess.run([sys.executable, script, *small, "--out", "run"], check=True)
    assert Path("run", "accuracy.png").is_file()


def docs() -> None:
    """The site."""
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    site = Path("site").resolve()
    subprocess.run([*command, "--site-dir", site], cwd=ROOT, env=environment, check=True)
    assert (site / "index.html").is_file()


def everything() -> None:
    """All of them in one environment."""
    for part in (torch, tensorflow, jax, keras, onnx, examples, docs):
        part()


if __name__ == "__main__":
    extra, folder = sys.argv[1:]
    os.chdir(folder)
    assert ROOT / "mcld_core" not in Path(mcld_core.__file__).parents
    subprocess.run([sys.executable, "-m", "mcld_core"], check=True)
    print(f"extra {extra}: loss {EXPECTED:.4f}")
    parts = {part.__name__: part for part in (torch, tensorflow, jax, keras, onnx, examples, docs)}
    (parts | {"all": everything, "none": lambda: None})[extra]()

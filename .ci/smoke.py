"""What an extra is for, in an environment that has it alone: ``python smoke.py EXTRA FOLDER``.

Run away from the repository, so that the installed wheel is what is imported.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import mcld_core

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
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


def readme(need: str, **environment: str) -> None:
    """README's block for this need, or its command, as a reader runs it."""
    if environment:
        (code,) = re.findall(r'^MCLD_BACKEND=torch python -c "(.+)"$', README, re.MULTILINE)
    else:
        (code,) = re.findall(f"<!-- test: {need} -->\n```python\n(.*?)```", README, re.DOTALL)
    subprocess.run([sys.executable, "-c", code], env=os.environ | environment, check=True)


def examples() -> None:
    """README's digits, and a script that takes nothing but the extra, for an epoch."""
    readme("torch")
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


if __name__ == "__main__":
    extra, folder = sys.argv[1:]
    os.chdir(folder)
    assert ROOT / "mcld_core" not in Path(mcld_core.__file__).parents
    subprocess.run([sys.executable, "-m", "mcld_core"], check=True)
    print(f"extra {extra}: loss {EXPECTED:.4f}", flush=True)
    parts = {
        **{each.__name__: each for each in (torch, tensorflow, jax, examples, docs)},
        "keras": functools.partial(readme, "keras"),
        "onnx": functools.partial(readme, "export"),
    }
    for name in parts if extra == "all" else [extra]:
        if name in ("torch", "tensorflow", "jax"):
            readme(name, MCLD_BACKEND=name)
        if name != "none":
            parts[name]()

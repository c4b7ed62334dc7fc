"""Peak memory of `token_mcld_loss`, forward and backward, beyond its inputs, by framework.

    python benchmarks/token_memory.py

PyTorch as it is, PyTorch under ``torch.compile``, JAX under jit, and TensorFlow in a
``tf.function``. Each row runs in a process of its own; the peak is the process's largest resident
set during the call, less the one before it with both arrays of logits made. A call on a small
shape comes first, for what is loaded or compiled once. The shape of 8,192 tokens shows whether an
array of tokens × tokens (256 MiB there) outlives its block. Linux.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import growth

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
Step = Callable[..., Any]

SHAPES = [(4, 512, 32_000), (16, 512, 256)]
SMALL = (2, 300, 4)
OPTIONS: dict[str, Any] = {"shift": True, "token_contrast": None, "sequence_contrast": 1.0}
"""All contrasts, of which two are left out by default."""


def torch_step(kind: str) -> tuple[Step, Step]:
    """Return array → tensor, and the step: loss and gradient."""
    import torch

    from mcld_core.extensions.nlp import token_mcld_loss

    torch.set_num_threads(1)

    def loss(student: Any, teacher: Any, labels: Any) -> Any:
        return token_mcld_loss(student, teacher, labels, **OPTIONS)

    compiled = loss if kind == "torch" else torch.compile(loss, fullgraph=True)

    def step(student: Any, teacher: Any, labels: Any) -> Any:
        compiled(student.requires_grad_(), teacher, labels).backward()
        return student.grad

    return torch.from_numpy, step


def jax_step(kind: str) -> tuple[Step, Step]:
    """Return array → array on the device, and the step."""
    import jax

    from mcld_core.extensions.nlp import token_mcld_loss

    def loss(student: Any, teacher: Any, labels: Any) -> Any:
        return token_mcld_loss(student, teacher, labels, **OPTIONS)

    jitted = jax.jit(jax.value_and_grad(loss))
    return jax.numpy.asarray, lambda *arrays: jax.block_until_ready(jitted(*arrays))


def tensorflow_step(kind: str) -> tuple[Step, Step]:
    """Return array → tensor, and the step."""
    import tensorflow as tf

    from mcld_core.extensions.nlp import token_mcld_loss

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    @tf.function
    def step(student: Any, teacher: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = token_mcld_loss(student, teacher, labels, **OPTIONS)
        return tape.gradient(loss, student)

    return tf.constant, step


FRAMEWORKS = {
    "torch": torch_step,
    "torch, compiled": torch_step,
    "jax, jit": jax_step,
    "tensorflow, tf.function": tensorflow_step,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run every shape, or in a process of its own the one that is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))
    add("--shape", type=int, nargs=3, metavar=("SEQUENCES", "TOKENS", "VOCABULARY"))
    options = parser.parse_args(argv)
    if options.shape is not None:
        print(measure(options.frameworks[0], tuple(options.shape)), flush=True)
        return 0
    print("| sequences × tokens, vocabulary | framework | logits | tokens² | peak beyond |")
    print("|---|---|---|---|---|", flush=True)
    for shape in SHAPES:
        for framework in options.frameworks:
            command = [sys.executable, __file__, "--frameworks", framework]
            command += ["--shape", *map(str, shape)]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            print(found.stdout.splitlines()[-1], flush=True)
    packages = sorted({name.split(",")[0] for name in options.frameworks})
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(
        f"\nMiB; {versions}, Python {platform.python_version()}, {platform.machine()}, float32, "
        "1 thread"
    )
    return 0


def measure(framework: str, shape: tuple[int, int, int]) -> str:
    """Return the table line of one framework and shape."""
    convert, step = FRAMEWORKS[framework](framework)
    step(*map(convert, arrays(SMALL)))
    inputs = tuple(map(convert, arrays(shape)))
    _, _, peak = growth(lambda: step(*inputs))
    sequences, tokens, vocabulary = shape
    rows = sequences * tokens
    return (
        f"| {sequences} × {tokens}, {vocabulary:,} | {framework} | "
        f"{4 * rows * vocabulary / 2**20:.0f} | {4 * rows * rows / 2**20:.0f} | "
        f"{peak:.0f} |"
    )


def arrays(shape: tuple[int, int, int]) -> Arrays:
    """Return student and teacher logits and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, shape[2], shape[:2])
    student = rng.standard_normal(shape, np.float32)
    return student, rng.standard_normal(shape, np.float32), labels


if __name__ == "__main__":
    raise SystemExit(main())

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
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import measure
from mcld_core.extensions.nlp import token_mcld_loss

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
Step = Callable[..., Any]

SHAPES = [(4, 512, 32_000), (16, 512, 256)]
SMALL = (2, 300, 4)


def loss(student: Any, teacher: Any, labels: Any) -> Any:
    """Return the loss with all contrasts, of which two are left out by default."""
    return token_mcld_loss(
        student, teacher, labels, shift=True, token_contrast=None, sequence_contrast=1.0
    )


def torch_step(kind: str) -> tuple[Step, Step]:
    """Return array → tensor, and the step: loss and gradient."""
    import torch

    torch.set_num_threads(1)
    compiled = loss if kind == "torch" else torch.compile(loss, fullgraph=True)

    def step(student: Any, teacher: Any, labels: Any) -> Any:
        compiled(student.requires_grad_(), teacher, labels).backward()
        return student.grad

    return torch.from_numpy, step


def jax_step(kind: str) -> tuple[Step, Step]:
    """Return array → array on the device, and the step."""
    import jax

    jitted = jax.jit(jax.value_and_grad(loss))
    return jax.numpy.asarray, lambda *arrays: jax.block_until_ready(jitted(*arrays))


def tensorflow_step(kind: str) -> tuple[Step, Step]:
    """Return array → tensor, and the step."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    @tf.function
    def step(student: Any, teacher: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(student)
            found = loss(student, teacher, labels)
        return tape.gradient(found, student)

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
        print(f"{peak(options.frameworks[0], tuple(options.shape)):.0f}")
        return 0
    measure.one_at_a_time(table(options.frameworks))
    packages = sorted({name.split(",")[0] for name in options.frameworks})
    print(f"\nMiB; {measure.versions(packages)}, float32, 1 thread")
    return 0


def table(frameworks: Sequence[str]) -> Iterator[list[Any]]:
    """Yield the head and the rows; each is measured in a process of its own."""
    yield ["sequences × tokens, vocabulary", "framework", "logits", "tokens²", "peak beyond"]
    for shape, framework in product(SHAPES, frameworks):
        found = measure.in_own_process(__file__, "--frameworks", framework, "--shape", *shape)
        sequences, tokens, vocabulary = shape
        rows = sequences * tokens
        sizes = (round(4 * rows * width / 2**20) for width in (vocabulary, rows))
        yield [f"{sequences} × {tokens}, {vocabulary:,}", framework, *sizes, found]


def peak(framework: str, shape: tuple[int, int, int]) -> float:
    """Return the MiB that a step takes beyond its inputs."""
    convert, step = FRAMEWORKS[framework](framework)
    step(*map(convert, arrays(SMALL)))
    inputs = tuple(map(convert, arrays(shape)))
    return measure.growth(lambda: step(*inputs))[2]


def arrays(shape: tuple[int, int, int]) -> Arrays:
    """Return student and teacher logits and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, shape[2], shape[:2])
    student = rng.standard_normal(shape, np.float32)
    return student, rng.standard_normal(shape, np.float32), labels


if __name__ == "__main__":
    raise SystemExit(main())

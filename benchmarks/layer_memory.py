"""Losses of hidden states and a last layer against those of its logits: memory and time.

    python benchmarks/layer_memory.py

`linear_token_kd_loss` beside `token_kd_loss` of the logits ``hidden @ weightᵀ + bias``: value and
gradients of hidden states, weight and bias, float32, one thread. The teacher is its top 64, or its
own hidden states and weight, of the student's width. PyTorch: each row runs once in a process of
its own, after a small call; the peak of the resident set beyond what was there before the call,
less the gradients, and the CPU time. JAX: what XLA says that the jitted step needs beside its
arguments and results, without running it. The value is the loss: both rows of a pair have to agree.
Linux.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import measure

SHAPE = (4096, 128_000, 512)
"""Tokens in sequences of 512, vocabulary, width."""
SMALL = (64, 100, 8)
FRAMEWORKS, TEACHERS = ["torch", "jax"], ["top 64", "layer"]
TOP, LENGTH = 64, 512
MEBI = 2**20


def shapes(shape: tuple[int, int, int], teacher: str) -> list[tuple[int, ...]]:
    """Return the shapes of hidden states, weight, bias, labels, and of the teacher's arrays."""
    tokens, vocabulary, width = shape
    length = min(tokens, LENGTH)
    rows = (tokens // length, length)
    student: list[tuple[int, ...]] = [(*rows, width), (vocabulary, width), (vocabulary,), rows]
    if teacher == "layer":
        return [*student, (*rows, width), (vocabulary, width)]
    return [*student, (*rows, TOP), (*rows, TOP), rows]


def inputs(shape: tuple[int, int, int], teacher: str) -> list[np.ndarray]:
    """Return the arrays of these shapes."""
    rng, vocabulary = np.random.default_rng(0), shape[1]
    of = shapes(shape, teacher)
    arrays = [rng.standard_normal(s, np.float32) for s in of]
    arrays[1] /= np.float32(np.sqrt(shape[2]))
    arrays[3] = rng.integers(0, vocabulary, of[3], "int32")
    if teacher == "layer":
        arrays[5] *= np.float32(3.0 / np.sqrt(shape[2]))
        return arrays
    step = vocabulary // TOP  # distinct ids without sorting a vocabulary a token
    arrays[4] = -np.sort(-4.0 * arrays[4], -1)
    arrays[5] = rng.integers(0, step, of[5], "int32") + step * np.arange(TOP, dtype="int32")
    arrays[6] = rng.uniform(0.0, 0.3, of[6]).astype("float32")
    return arrays


def value(fused: bool, teacher: str, arrays: Sequence[Any]) -> Any:
    """Return the loss of tensors of any framework."""
    from mcld_core.extensions.nlp import TopKLogits, linear_token_kd_loss, token_kd_loss

    hidden, weight, bias, labels, *parts = arrays
    theirs: Any = TopKLogits(*parts) if teacher != "layer" else tuple(parts)
    if fused:
        return linear_token_kd_loss(hidden, weight, theirs, labels, bias=bias, shift=True)
    logits = hidden @ weight.T + bias[None, None, :]
    theirs = parts[0] @ parts[1].T if teacher == "layer" else theirs
    return token_kd_loss(logits, theirs, labels, shift=True)


def in_torch(fused: bool, teacher: str, shape: tuple[int, int, int]) -> str:
    """Return MiB, CPU seconds and the loss."""
    import torch

    torch.set_num_threads(1)

    def step(shape: tuple[int, int, int]) -> tuple[float, ...]:
        tensors = [torch.from_numpy(x) for x in inputs(shape, teacher)]
        for x in tensors[:3]:
            x.requires_grad_()

        def call() -> Any:
            found = value(fused, teacher, tensors)
            found.backward()
            return found

        found, seconds, peak = measure.growth(call)
        for x in tensors[:3]:
            assert torch.isfinite(x.grad).all()
            assert x.grad.any()
        return peak - sum(x.grad.nbytes for x in tensors[:3]) / MEBI, seconds, found.item()

    step(SMALL)
    return "{:.0f} {:.1f} {:.4f}".format(*step(shape))


def in_jax(fused: bool, teacher: str, shape: tuple[int, int, int]) -> str:
    """Return MiB."""
    import jax

    dtypes = [x.dtype for x in inputs(SMALL, teacher)]
    of = shapes(shape, teacher)
    arrays = [jax.ShapeDtypeStruct(s, d) for s, d in zip(of, dtypes, strict=True)]

    def total(trained: tuple[Any, ...], *others: Any) -> Any:
        return value(fused, teacher, (*trained, *others))

    step = jax.jit(jax.value_and_grad(total)).lower(tuple(arrays[:3]), *arrays[3:]).compile()
    return f"{step.memory_analysis().temp_size_in_bytes / MEBI:.0f} – –"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every row, or in this process the one that is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--shape", type=int, nargs=3, metavar=("TOKENS", "VOCABULARY", "WIDTH"))
    add("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    add("--teachers", nargs="+", choices=TEACHERS, default=TEACHERS)
    add("--alone", choices=["fused", "logits"], help="measure in this process")
    options = parser.parse_args(argv)
    chosen = product(options.frameworks, options.teachers)
    if options.alone:
        framework, teacher = next(chosen)
        shape = tuple(options.shape)
        run = in_torch if framework == "torch" else in_jax
        print(run(options.alone == "fused", teacher, shape))
        return 0
    measure.one_at_a_time(table(options.shape, chosen))
    print(f"\n{measure.versions(options.frameworks)}, width 512")
    return 0


def table(given: list[int] | None, chosen: Iterable[tuple[str, str]]) -> Iterator[list[Any]]:
    """Yield the head and the rows; each is measured in a process of its own."""
    yield ["tokens × vocabulary", "framework", "teacher", "of", "MiB", "×", "CPU s", "loss"]
    for framework, teacher in chosen:
        shape = tuple(given or SHAPE)
        words = ["--frameworks", framework, "--teachers", teacher, "--shape"]
        whole = 0.0
        for kind in ("logits", "fused"):
            line = measure.in_own_process(__file__, "--alone", kind, *words, *shape)
            mebi, seconds, found = line.split()
            whole = whole or float(mebi)
            sizes = f"{shape[0]:,} × {shape[1]:,}"
            share = f"{float(mebi) / whole:.3f}"
            yield [sizes, framework, teacher, kind, mebi, share, seconds, found]


if __name__ == "__main__":
    raise SystemExit(main())

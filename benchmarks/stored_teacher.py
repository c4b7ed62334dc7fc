"""A language model distilled from a stored teacher: time and memory against KD + CE by hand.

    python benchmarks/stored_teacher.py

Loss and backward of `token_kd_loss` with `TopKLogits`, in PyTorch and in JAX under jit, and of KD +
CE as a PyTorch user writes it, with the teacher's logits made dense beforehand. 4 sequences of 500
tokens, float32, one thread. Each row runs in a process of its own: the least CPU time of the
repetitions, which does not depend on what else the machine does, and the peak of the resident set
beyond what was there before the call. The goals: at most 1.5 × the time and 0.6 × the memory of the
first row of each shape. Linux.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import measure
from mcld_core.extensions.nlp import TopKLogits, token_kd_loss

SEQUENCES, TOKENS = 4, 500
SHAPES = [(32_000, 32), (128_000, 64)]
LOSSES = ["KD + CE by hand", "token_kd_loss, torch", "token_kd_loss, jax"]
Step = Callable[[], Any]


def inputs(vocabulary: int, k: int) -> tuple[np.ndarray, Any, np.ndarray]:
    """Return student logits, the stored teacher (values, indices, tail) and token ids."""
    rng = np.random.default_rng(0)
    rows = (SEQUENCES, TOKENS)
    student = rng.standard_normal((*rows, vocabulary), np.float32)
    step = vocabulary // k  # distinct ids without sorting a vocabulary a token
    indices = rng.integers(0, step, (*rows, k), "int32") + step * np.arange(k, dtype="int32")
    values = -np.sort(-4.0 * rng.standard_normal((*rows, k), np.float32), -1)
    stored = values, indices, rng.uniform(0.0, 0.3, rows).astype("float32")
    return student, stored, rng.integers(0, vocabulary, rows)


def value(student: Any, teacher: Any, ids: Any) -> Any:
    """Return the library's loss of tensors of any framework."""
    return token_kd_loss(student, teacher, ids, shift=True, temperature=4.0)


def torch_step(loss: str, vocabulary: int, k: int) -> Step:
    """Return what one repetition does, in PyTorch; it returns the gradient."""
    import torch

    torch.set_num_threads(1)
    logits, stored, labels = inputs(vocabulary, k)
    student, ids = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(labels)
    teacher: Any = TopKLogits(*map(torch.from_numpy, stored))
    if loss == LOSSES[0]:
        teacher = teacher.dense(vocabulary)

    def by_hand() -> Any:
        functional, temperature = torch.nn.functional, 4.0
        ours, theirs = (x[:, :-1].reshape(-1, vocabulary) for x in (student, teacher))
        log_q = functional.log_softmax(ours / temperature, -1)
        p = functional.softmax(theirs / temperature, -1)
        kd = functional.kl_div(log_q, p, reduction="batchmean") * temperature**2
        return kd + functional.cross_entropy(ours, ids[:, 1:].reshape(-1))

    def step() -> Any:
        student.grad = None
        found = by_hand() if loss == LOSSES[0] else value(student, teacher, ids)
        found.backward()
        return student.grad

    return step


def jax_step(vocabulary: int, k: int) -> Step:
    """Return what one repetition does, in JAX; it returns the gradient."""
    import jax

    logits, stored, labels = inputs(vocabulary, k)
    arrays = tuple(map(jax.numpy.asarray, (logits, *stored, labels.astype("int32"))))

    def of_arrays(student: Any, values: Any, indices: Any, tail: Any, ids: Any) -> Any:
        return value(student, TopKLogits(values, indices, tail), ids)

    gradient = jax.jit(jax.grad(of_arrays))
    return lambda: jax.block_until_ready(gradient(*arrays))


def cost(loss: str, shape: tuple[int, int], repetitions: int) -> tuple[float, float]:
    """Return the least CPU seconds, and the peak in MiB beyond what was there before."""
    step = jax_step(*shape) if "jax" in loss else torch_step(loss, *shape)
    found = np.asarray(step())  # what is loaded or compiled once; and it does the work
    assert np.isfinite(found).all()
    assert np.abs(found[:, :-1]).sum(-1).all()
    assert not found[:, -1].any()
    del found
    times, peaks = [], []
    for _ in range(repetitions):
        _, seconds, peak = measure.growth(step)
        times.append(seconds)
        peaks.append(peak)
    return min(times), max(peaks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run every shape, or in a process of its own the one that is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    add("--repetitions", type=int, default=5)
    add("--shape", type=int, nargs=2, metavar=("VOCABULARY", "K"))
    add("--alone", action="store_true", help="measure in this process, print two numbers")
    options = parser.parse_args(argv)
    shapes = SHAPES if options.shape is None else [tuple(options.shape)]
    if options.alone:
        print(*cost(options.losses[0], shapes[0], options.repetitions))
        return 0
    measure.one_at_a_time(table(shapes, options.losses, options.repetitions))
    print(f"\n{measure.versions(('torch', 'jax'))}, 1 thread")
    return 0


def table(
    shapes: Sequence[tuple[int, int]], losses: Sequence[str], repetitions: int
) -> Iterator[list[str]]:
    """Yield the head and the rows; each is measured in a process of its own."""
    yield ["vocabulary, k", "loss", "CPU s", "× by hand", "peak MiB", "× by hand"]
    for shape in shapes:
        first: tuple[float, ...] = ()
        for loss in losses:
            words = ["--losses", loss, "--repetitions", repetitions, "--shape", *shape]
            line = measure.in_own_process(__file__, "--alone", *words)
            seconds, peak = map(float, line.split())
            first = first or (seconds, peak)
            ratios = f"{seconds / first[0]:.2f}", f"{peak / first[1]:.2f}"
            row = [f"{seconds:.2f}", ratios[0], f"{peak:.0f}", ratios[1]]
            yield [f"{shape[0]:,}, {shape[1]}", loss, *row]


if __name__ == "__main__":
    raise SystemExit(main())

"""Time and memory of `token_kd_loss` and `linear_token_kd_loss` beside the formulas by hand.

    python benchmarks/token_kd.py --framework torch --json benchmarks/results/token_kd-torch.json

Value and gradient, float32, one thread: CPU seconds, the minimum of interleaved rounds, and ratios
within one run. The peer is forward KL written for one purpose: chunks of rows, two log_softmax, and
``q - p`` written into the gradient; the bar is its best chunk. Fused rows have a width of 256 and a
teacher that is a layer too; their bar is the four matrix products that must be done. Compiled and
jitted rows stand beside the naive formula, compiled. First losses and gradients are compared with
the naive ones. Memory is the peak of PyTorch's allocations in a call, or of XLA's temporaries.
``--memory-reused`` keeps freed memory in the process, as an allocator with a cache does; without
it, each call asks the system anew for its arrays, which costs all rows the same time.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import measure

TOKENS, VOCABULARY, WIDTH, TOP = 512, 32_000, 256, 50
WIDE = (256, 128_000)
"""Tokens and vocabulary of the fused rows' memory."""
CHUNKS = (4, 8, 16, 64)
Step = Callable[[], Any]


def torch_rows(tokens: int, vocabulary: int) -> dict[str, Step]:
    """Return name → a call that makes value and gradients, in PyTorch."""
    import torch

    from mcld_core.extensions.nlp import TopKLogits, linear_token_kd_loss, token_kd_loss

    torch.set_num_threads(1)
    torch.manual_seed(0)
    student = torch.randn(1, tokens, vocabulary, requires_grad=True)
    teacher = 2.0 * torch.randn(1, tokens, vocabulary)
    teacher[0, :, :TOP] += 8.0  # as of a model: few tokens have most of the mass
    labels = torch.randint(0, vocabulary, (1, tokens))
    place = torch.arange(tokens)
    some = labels.masked_fill(place % 4 > 0, -100)
    answer = labels.masked_fill(place < 3 * tokens // 4, -100)
    top = TopKLogits(*map(torch.from_numpy, TopKLogits.from_logits(teacher, TOP)))
    hidden = torch.randn(1, tokens, WIDTH, requires_grad=True)
    weight = (torch.randn(vocabulary, WIDTH) / WIDTH**0.5).requires_grad_()
    layer = torch.randn(1, tokens, WIDTH), 2.0 * torch.randn(vocabulary, WIDTH) / WIDTH**0.5

    class Peer(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, s: Any, t: Any, chunk: int) -> Any:
            gradient, total = torch.empty_like(s), 0.0
            for start in range(0, len(s), chunk):
                block = slice(start, start + chunk)
                log_q, log_p = s[block].log_softmax(-1), t[block].log_softmax(-1)
                p = log_p.exp()
                total = total + (p * (log_p - log_q)).sum()
                torch.sub(log_q.exp(), p, out=gradient[block])
                gradient[block] /= len(s)
            ctx.gradient = gradient
            return total / len(s)

        @staticmethod
        def backward(ctx: Any, slope: Any) -> Any:
            return ctx.gradient.mul_(slope), None, None

    def naive(s: Any, t: Any) -> Any:
        rows = s[0].log_softmax(-1), t[0].log_softmax(-1)
        return torch.nn.functional.kl_div(*rows, log_target=True, reduction="batchmean")

    def products() -> Any:
        with torch.no_grad():
            z = hidden[0] @ weight.mT
            torch.mm(layer[0][0], layer[1].mT)
            return z @ weight, z.mT @ hidden[0]

    def step(loss: Step) -> Step:
        def run() -> Any:
            student.grad = hidden.grad = weight.grad = None
            found = loss()
            found.backward()
            return found

        return run

    fused = {"ce_weight": 1.0}
    compiled = torch.compile(naive, fullgraph=True)
    ours = torch.compile(token_kd_loss, fullgraph=True)
    rows: dict[str, Step] = {
        f"peer, chunks of {c}": step(lambda c=c: Peer.apply(student[0], teacher[0], c))
        for c in CHUNKS
    }
    rows |= {
        "naive": step(lambda: naive(student, teacher)),
        "KD": step(lambda: token_kd_loss(student, teacher)),
        "KD + CE": step(lambda: token_kd_loss(student, teacher, labels, ce_weight=1.0)),
        "KD, 75 % ignored": step(lambda: token_kd_loss(student, teacher, some)),
        "KD, a prompt of 75 %": step(lambda: token_kd_loss(student, teacher, answer)),
        "KD, top 50": step(lambda: token_kd_loss(student, top)),
        "KD + CE, top 50": step(lambda: token_kd_loss(student, top, labels, ce_weight=1.0)),
        "JSD": step(lambda: token_kd_loss(student, teacher, divergence="jsd")),
        "JSD, top 50": step(lambda: token_kd_loss(student, top, divergence="jsd")),
        "reverse": step(lambda: token_kd_loss(student, teacher, divergence="reverse")),
        "naive, compiled": step(lambda: compiled(student, teacher)),
        "KD, compiled": step(lambda: ours(student, teacher)),
        "four products": products,
        "fused KD": step(lambda: linear_token_kd_loss(hidden, weight, layer)),
        "fused KD + CE": step(lambda: linear_token_kd_loss(hidden, weight, layer, labels, **fused)),
        "fused KD, 75 % ignored": step(lambda: linear_token_kd_loss(hidden, weight, layer, some)),
        "logits, naive": step(lambda: naive(hidden @ weight.mT, (layer[0] @ layer[1].mT).detach())),
    }

    def check(name: str, reference: str, tensors: Sequence[Any]) -> None:
        found = []
        for row in (name, reference):
            value = rows[row]()
            found.append([value.detach(), *(x.grad for x in tensors)])
        for one, other in zip(*found, strict=True):
            assert other.abs().max() > 0
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)

    if tokens == TOKENS:
        for name in ("peer, chunks of 4", "KD"):
            check(name, "naive", [student])
        check("fused KD", "logits, naive", [hidden, weight])
    return rows


def jax_rows(tokens: int, vocabulary: int) -> dict[str, Step]:
    """Return name → a jitted call."""
    import jax
    import jax.numpy as jnp

    from mcld_core.extensions.nlp import TopKLogits, token_kd_loss

    keys = jax.random.split(jax.random.key(0), 3)
    student, teacher = (jax.random.normal(key, (1, tokens, vocabulary)) for key in keys[:2])
    teacher = (2.0 * teacher).at[..., :TOP].add(8.0)
    labels = jax.random.randint(keys[2], (1, tokens), 0, vocabulary)
    some = jnp.where(jnp.arange(tokens) % 4 > 0, -100, labels)
    top = TopKLogits(*map(jnp.asarray, TopKLogits.from_logits(teacher, TOP)))

    def naive(s: Any, t: Any) -> Any:
        log_q, log_p = jax.nn.log_softmax(s), jax.nn.log_softmax(t)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q)) / tokens

    def with_ce(s: Any, t: Any, y: Any) -> Any:
        return token_kd_loss(s, t, y, ce_weight=1.0)

    def step(loss: Any, *arrays: Any) -> Step:
        jitted = jax.jit(jax.value_and_grad(loss)).lower(*arrays).compile()
        size = jitted.memory_analysis().temp_size_in_bytes / 2**20
        run = lambda: jax.block_until_ready(jitted(*arrays))  # noqa: E731
        run.mebi = size
        return run

    rows = {
        "naive, jitted": step(naive, student, teacher),
        "KD, jitted": step(token_kd_loss, student, teacher),
        "KD + CE, jitted": step(with_ce, student, teacher, labels),
        "KD, 75 % ignored, jitted": step(token_kd_loss, student, teacher, some),
        "KD, top 50, jitted": step(token_kd_loss, student, top),
    }
    for one, other in zip(rows["KD, jitted"](), rows["naive, jitted"](), strict=True):
        assert jnp.abs(other).max() > 0
        assert jnp.allclose(one, other, rtol=1e-4, atol=1e-7)
    return rows


def tensorflow_rows(tokens: int, vocabulary: int) -> dict[str, Step]:
    """Return name → a call of a ``tf.function``, with XLA and without."""
    import tensorflow as tf

    from mcld_core.extensions.nlp import token_kd_loss

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    student = tf.random.stateless_normal((1, tokens, vocabulary), [0, 1])
    teacher = 2.0 * tf.random.stateless_normal((1, tokens, vocabulary), [0, 2])
    labels = tf.random.stateless_uniform((1, tokens), [0, 3], 0, vocabulary, tf.int32)
    some = tf.where(tf.range(tokens) % 4 > 0, -100, labels)

    def naive(s: Any, t: Any) -> Any:
        log_q, log_p = tf.nn.log_softmax(s), tf.nn.log_softmax(t)
        return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q)) / tokens

    def step(loss: Any, xla: bool, *arrays: Any) -> Step:
        @tf.function(jit_compile=xla, autograph=False)
        def value_and_gradient(*arrays: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(arrays[0])
                value = loss(*arrays)
            return value, tape.gradient(value, arrays[0])

        return lambda: [x.numpy() for x in value_and_gradient(*arrays)]

    rows = {}
    for suffix, xla in (("", False), (", XLA", True)):
        rows[f"naive{suffix}"] = step(naive, xla, student, teacher)
        rows[f"KD{suffix}"] = step(token_kd_loss, xla, student, teacher)
        rows[f"KD, 75 % ignored{suffix}"] = step(token_kd_loss, xla, student, teacher, some)
    for one, other in zip(rows["KD"](), rows["naive"](), strict=True):
        assert abs(other).max() > 0
        assert (abs(one - other) <= 1e-4 * abs(other) + 1e-7).all()
    return rows


ROWS = {"torch": torch_rows, "jax": jax_rows, "tensorflow": tensorflow_rows}
MEMORY = [
    ("KD", TOKENS, VOCABULARY),
    ("peer, chunks of 16", TOKENS, VOCABULARY),
    ("naive", TOKENS, VOCABULARY),
    ("KD, top 50", TOKENS, VOCABULARY),
    ("fused KD", *WIDE),
    ("logits, naive", *WIDE),
]


def seconds(rows: dict[str, Step], rounds: int) -> dict[str, float]:
    """Return the CPU seconds of each row: the least of interleaved rounds after two others."""
    best = dict.fromkeys(rows, float("inf"))
    for number in range(rounds + 2):
        for name, run in rows.items():
            start = time.process_time()
            run()
            if number >= 2:
                best[name] = min(best[name], time.process_time() - start)
    return best


def allocated(run: Step) -> float:
    """Return the peak of what PyTorch allocates in a call, in MiB."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = [x for x in found.profiler.kineto_results.events() if x.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events)) / 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all rows of a framework, of PyTorch their memory too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--framework", choices=ROWS, default="torch")
    add("--rounds", type=int, default=10)
    add("--only", nargs="+", help="rows by their names")
    add("--memory-reused", action="store_true", help="keep freed memory in the process")
    add("--json", type=Path)
    options = parser.parse_args(argv)
    if options.memory_reused and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        keep = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | keep)
    measure.limit_threads(1)
    rows = ROWS[options.framework](TOKENS, VOCABULARY)
    rows = {name: rows[name] for name in options.only or rows}
    best = seconds(rows, options.rounds)
    memory = {name: run.mebi for name, run in rows.items() if hasattr(run, "mebi")}
    if options.framework == "torch" and not options.only:
        for name, tokens, vocabulary in MEMORY:
            run = ROWS["torch"](tokens, vocabulary)[name]
            memory[f"{name}, {tokens} × {vocabulary}"] = allocated(run)
    peers = [x for name, x in best.items() if name.startswith("peer")] or list(best.values())
    for name, found in best.items():
        print(f"{name:<28}{found * 1e3:9.1f} ms{found / min(peers):8.2f} × the fastest peer")
    for name, found in memory.items():
        print(f"{name:<40}{found:9.1f} MiB")
    if options.json:
        content = {
            "command": shlex.join(["python", "benchmarks/token_kd.py", *sys.argv[1:]]),
            "environment": measure.environment(1, [options.framework]),
            "seconds": best,
            "mebibytes": memory,
        }
        measure.write_json(options.json, content)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The loss of another revision beside this one's, in one process: old and new in turns.

    python benchmarks/against.py c32b1b2 --json benchmarks/results/against-torch.json

The other revision's library is unpacked into a temporary folder under the name `mcld_other`.
"""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import measure

ROOT = Path(__file__).parent.parent
SHAPES = measure.SHAPES[:5]


def unpack(revision: str, folder: Path) -> None:
    """Write the library of a revision into a folder, renamed throughout."""
    parts = ("mcld_core", "backends", "extensions")
    command = ["git", "archive", revision, *parts]
    archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    (folder / "mcld_core").rename(folder / "mcld_other")
    for part in parts[1:]:
        (folder / part).rename(folder / "mcld_other" / part)
    for path in folder.rglob("*.py"):
        text = path.read_text("utf-8")
        path.write_text(text.replace("mcld_core", "mcld_other"), "utf-8")


def in_torch(shape: measure.Shape, libraries: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return forward and backward of each library's loss, and the limit."""
    import torch

    torch.manual_seed(0)
    torch.ones(2**23 - 2**12)  # the C library keeps freed memory from here on
    batch, keys, classes = shape
    logits = 4 * torch.randn(keys, classes)
    labels = torch.randint(classes, (keys,))
    student = torch.randn(batch, classes, requires_grad=True)
    ready = logits.softmax(1)

    def limit() -> None:
        with torch.no_grad():
            torch.exp(student @ ready.T) @ ready

    def run(library: Any) -> Callable[[], None]:
        contrast = None if keys == batch else library.TeacherKeys(logits, labels)
        own = logits[:batch], labels[:batch]

        def call() -> None:
            library.mcld_loss(student, *own, keys=contrast).backward()
            student.grad = None

        return call

    return {measure.LIMIT: limit, **{name: run(one) for name, one in libraries.items()}}


def in_jax(shape: measure.Shape, libraries: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return value and gradient of each library's compiled loss, and the limit."""
    import jax
    import jax.numpy as jnp

    batch, keys, classes = shape
    first, second, third = jax.random.split(jax.random.key(0), 3)
    logits = 4 * jax.random.normal(first, (keys, classes))
    labels = jax.random.randint(second, (keys,), 0, classes)
    student = jax.random.normal(third, (batch, classes))
    ready = jax.nn.softmax(logits)
    product = jax.jit(lambda s, k: jnp.exp(s @ k.T) @ k)

    def run(library: Any) -> Callable[[], Any]:
        def loss(student: Any, logits: Any, labels: Any) -> Any:
            contrast = None if keys == batch else library.TeacherKeys(logits, labels)
            return library.mcld_loss(student, logits[:batch], labels[:batch], keys=contrast)

        step = jax.jit(jax.value_and_grad(loss))
        return lambda: jax.block_until_ready(step(student, logits, labels))

    calls = {name: run(one) for name, one in libraries.items()}
    return {measure.LIMIT: lambda: jax.block_until_ready(product(student, ready)), **calls}


def in_tensorflow(shape: measure.Shape, libraries: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return value and gradient of each library's loss in a graph, and the limit."""
    import tensorflow as tf

    batch, keys, classes = shape
    logits = 4 * tf.random.normal([keys, classes], seed=1)
    labels = tf.random.uniform([keys], 0, classes, tf.int32, seed=2)
    student = tf.random.normal([batch, classes], seed=0)
    ready = tf.nn.softmax(logits)

    @tf.function
    def product(student: Any, ready: Any) -> Any:
        return tf.exp(tf.matmul(student, ready, transpose_b=True)) @ ready

    def run(library: Any) -> Callable[[], Any]:
        unknown = [tf.TensorSpec([None, classes]), tf.TensorSpec([None, classes])]

        @tf.function(input_signature=[*unknown, tf.TensorSpec([None], tf.int32)])
        def step(student: Any, logits: Any, labels: Any) -> Any:
            contrast = None if keys == batch else library.TeacherKeys(logits, labels)
            with tf.GradientTape() as tape:
                tape.watch(student)
                own = logits[:batch], labels[:batch]
                loss = library.mcld_loss(student, *own, keys=contrast)
            return tape.gradient(loss, student)

        return lambda: step(student, logits, labels).numpy()

    calls = {name: run(one) for name, one in libraries.items()}
    return {measure.LIMIT: lambda: product(student, ready).numpy(), **calls}


CANDIDATES = {"torch": in_torch, "jax": in_jax, "tensorflow": in_tensorflow}


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = measure.arguments(__doc__.split("\n", 1)[0])
    parser.add_argument("revision", help="the other revision, as git names it")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=6.0, help="per shape, at least")
    options = parser.parse_args()
    measure.limit_threads(options.threads)
    candidates = CANDIDATES[options.framework]
    rows: list[measure.Row] = []
    with tempfile.TemporaryDirectory() as folder:
        unpack(options.revision, Path(folder))
        sys.path.insert(0, folder)
        if options.framework == "torch":
            import torch

            torch.set_num_threads(options.threads)
        import mcld_other  # type: ignore[import-not-found]

        import mcld_core

        libraries = {f"at {options.revision}": mcld_other, "here": mcld_core}
        for shape in options.shapes or (measure.QUICK_SHAPES if options.quick else SHAPES):
            found = candidates(shape, libraries)
            times = measure.interleaved(found, options.repetitions, options.seconds)
            rows += measure.to_rows(options.framework, options.device, shape, times)
            old, new = (min(times[name]) for name in libraries)
            print(f"{shape}: here {new / old:.2f} × {options.revision}", flush=True)
            for row in rows[-len(times) :]:
                print(
                    f"  {row.name:<30}{row.ratio_min:7.2f} × LIMIT  {row.seconds_min * 1e3:9.3f} ms"
                )
    if options.json:
        content = {
            "command": " ".join(["python", "benchmarks/against.py", *sys.argv[1:]]),
            "environment": measure.environment(options.threads, [options.framework]),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        measure.write_json(options.json, content)


if __name__ == "__main__":
    main()

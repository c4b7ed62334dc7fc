"""Which layers an exporter cannot write: the table of known gaps in the export guide.

    python benchmarks/export_gaps.py

A small student with each layer goes through `export_onnx`, verification included, in a process for
each framework. What fails is a gap; the ways round are written here. The findings stand in
``benchmarks/results/export_gaps.json``, the table in ``docs/guides/export.md`` between its marks.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.export_table import FRAMEWORKS, PACKAGES, worker  # noqa: E402
from benchmarks.measure import RESULTS, environment, limit_threads, write_json  # noqa: E402
from benchmarks.pages.numbers import markdown  # noqa: E402

GUIDE = ROOT / "docs" / "guides" / "export.md"
MARKS = "<!-- made by benchmarks/export_gaps.py -->", "<!-- end -->"

WAYS = {
    "LSTM": "a Python loop over the cell, of a fixed length",
    "LSTM, free length": "fix the length and pad; in JAX also as above",
    "GRU": "as LSTM",
    "bilinear resize": "resize the pictures before they reach the student",
    "FFT": "compute the spectrum before the student, or as a matrix product",
    "branch on values": "`where` on both branches",
    "batch statistics": "refused on purpose: keep running statistics and use them",
    "scripted module": "pass the module that was scripted",
    "quantised module": "export the module before its quantisation, then quantise the file",
    "float16 weights": "`tolerance=1e-2`, or export float32 and convert the file",
    "bfloat16 weights": "convert the student to float32",
}
"""The layers in the order of the table, each with what to do where its exporter cannot write it."""

Case = tuple[Any, dict[str, Any]]
"""A student and the arguments of its export."""

FREE = {"dynamic_axes": {"input": {1: "time"}}}
STEPS, ROWS = {"input_shape": (8, 4)}, {"input_shape": (6,)}


def torch_cases() -> dict[str, Callable[[], Case]]:
    """Students in torch."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Of(nn.Module):
        def __init__(self, call: Callable[..., Any], *parts: nn.Module) -> None:
            super().__init__()
            self.call, self.parts = call, nn.ModuleList(parts)

        def forward(self, rows: torch.Tensor) -> Any:
            return self.call(rows, *self.parts)

    pictures = {"input_shape": (3, 8, 8)}
    last = lambda x, layer: layer(x)[0][:, -1]  # noqa: E731
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    lazy = torch.ao.quantization
    return {
        "LSTM": lambda: (Of(last, nn.LSTM(4, 5, batch_first=True)), STEPS),
        "LSTM, free length": lambda: (Of(last, nn.LSTM(4, 5, batch_first=True)), STEPS | FREE),
        "GRU": lambda: (Of(last, nn.GRU(4, 5, batch_first=True)), STEPS),
        "bilinear resize": lambda: (
            Of(lambda x: F.interpolate(x, (5, 13), mode="bilinear").flatten(1)), pictures),
        "FFT": lambda: (Of(lambda x: torch.fft.rfft(x, dim=1).abs().mean(2)), STEPS),
        "branch on values": lambda: (Of(lambda x: x if float(x.abs().sum()) >= 0 else -x), ROWS),
        "batch statistics": lambda: (Of(lambda x, n: n(x).amax((2, 3)), norm), pictures),
        "scripted module": lambda: (torch.jit.script(nn.Linear(6, 3)), ROWS),
        "quantised module": lambda: (
            lazy.quantize_dynamic(nn.Sequential(nn.Linear(6, 3)), {nn.Linear}), ROWS),
        "float16 weights": lambda: (
            nn.Sequential(nn.Conv2d(3, 64, 3), nn.Tanh(), nn.Conv2d(64, 9, 6), nn.Flatten()).half(),
            pictures | {"dtype": "float16"}),
        "bfloat16 weights": lambda: (
            nn.Linear(6, 3).bfloat16(),
            {"example_input": torch.ones(2, 6, dtype=torch.bfloat16)}),
    }  # fmt: skip


def tensorflow_cases() -> dict[str, Callable[[], Case]]:
    """Students in TensorFlow, without Keras: it has no recurrent layers."""
    import tensorflow as tf

    pictures = {"input_shape": (8, 8, 3)}

    def batch(x: Any) -> Any:
        moments = tf.nn.moments(x, (0, 1, 2))
        return tf.reduce_max(tf.nn.batch_normalization(x, *moments, None, None, 1e-3), (1, 2))

    def spectrum(x: Any) -> Any:
        return tf.reduce_mean(tf.abs(tf.signal.rfft(tf.transpose(x, (0, 2, 1)))), 1)

    def branch(x: Any) -> Any:
        return tf.cond(tf.reduce_sum(tf.abs(x)) >= 0, lambda: x, lambda: -x)

    return {
        "bilinear resize": lambda: (
            tf.function(lambda x: tf.reshape(tf.image.resize(x, (5, 13)), (-1, 195))), pictures),
        "FFT": lambda: (tf.function(spectrum), STEPS),
        "branch on values": lambda: (tf.function(branch), ROWS),
        "batch statistics": lambda: (tf.function(batch), pictures),
    }  # fmt: skip


def jax_cases() -> dict[str, Callable[[], Case]]:
    """Students in JAX and flax nnx."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    rngs, pictures = nnx.Rngs(0), {"input_shape": (8, 8, 3)}
    lstm = nnx.RNN(nnx.OptimizedLSTMCell(4, 5, rngs=rngs))
    gru = nnx.RNN(nnx.GRUCell(4, 5, rngs=rngs))
    batch = nnx.BatchNorm(3, rngs=rngs)
    half = jnp.asarray(jax.random.normal(jax.random.key(0), (512, 9)), jnp.float16)

    def resized(x: Any) -> Any:
        return jax.image.resize(x, (len(x), 5, 13, 3), "bilinear").reshape(len(x), -1)

    return {
        "LSTM": lambda: (lambda x: lstm(x)[:, -1], STEPS),
        "LSTM, free length": lambda: (lambda x: lstm(x)[:, -1], STEPS | FREE),
        "GRU": lambda: (lambda x: gru(x)[:, -1], STEPS),
        "bilinear resize": lambda: (resized, pictures),
        "FFT": lambda: (lambda x: jnp.abs(jnp.fft.rfft(x, axis=1)).mean(2), STEPS),
        "branch on values": lambda: (
            lambda x: jax.lax.cond(jnp.abs(x).sum() >= 0, lambda: x, lambda: -x), ROWS),
        "batch statistics": lambda: (
            lambda x: batch(x, use_running_average=False).max((1, 2)), pictures),
        "float16 weights": lambda: (
            lambda x: x @ half, {"input_shape": (512,), "dtype": "float16"}),
    }  # fmt: skip


def keras_cases() -> dict[str, Callable[[], Case]]:
    """Students in Keras, on the backend of this process."""
    import keras
    from keras import layers

    def of(shape: tuple[int | None, ...], *parts: Callable[..., Any]) -> Any:
        student = keras.Sequential([keras.Input(shape), *(part() for part in parts)])
        return student, {"input_shape": tuple(size or 8 for size in shape)}

    def batch() -> Case:
        images = keras.Input((8, 8, 3))
        values = images - keras.ops.mean(images, axis=0, keepdims=True)
        student = keras.Model(images, layers.GlobalMaxPooling2D()(values))
        return student, {"input_shape": (8, 8, 3)}

    def free() -> Case:
        student, arguments = of((None, 4), lambda: layers.LSTM(5))
        return student, arguments | FREE

    return {
        "LSTM": lambda: of((8, 4), lambda: layers.LSTM(5)),
        "LSTM, free length": free,
        "GRU": lambda: of((8, 4), lambda: layers.GRU(5)),
        "bilinear resize": lambda: of(
            (8, 8, 3), lambda: layers.Resizing(5, 13), layers.Flatten),
        "batch statistics": batch,
    }  # fmt: skip


CASES = {
    "torch": torch_cases,
    "tensorflow": tensorflow_cases,
    "jax": jax_cases,
    "keras": keras_cases,
}


def probe(framework: str) -> dict[str, str]:
    """For each layer: "" where it is written and verified, else the error's first line."""
    from mcld_core import export_onnx

    warnings.simplefilter("ignore")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES[framework.partition("-")[0]]().items():
            try:
                student, arguments = case()
                export_onnx(student, Path(folder) / "a.onnx", **arguments)
                found[name] = ""
            except (RuntimeError, TypeError, ValueError) as error:
                found[name] = str(error).partition("\n")[0]
    return found


def table(found: dict[str, dict[str, str]]) -> str:
    """The findings in Markdown: yes or no by layer and framework, and the way round a no."""
    heads = [name.replace("keras-", "Keras on ") for name in found]
    rows = []
    for name, way in WAYS.items():
        cells = [
            "" if name not in layers else "**no**" if layers[name] else "yes"
            for layers in found.values()
        ]
        rows.append([name, *cells, way])
    return markdown(["", *heads, "where it is no"], rows)


def insert(page: str, made: str) -> str:
    """The page with the table between its marks."""
    begin, end = map(re.escape, MARKS)
    pattern = re.compile(f"(?<={begin}\n).*?(?={end})", re.DOTALL)
    return pattern.sub(lambda _: f"\n{made}\n\n", page)


def main() -> None:
    """Probe each framework in a process of its own; write the findings and the guide's table."""
    limit_threads(1)
    if sys.argv[1:]:
        with contextlib.redirect_stdout(io.StringIO()):
            found = probe(sys.argv[1])
        print(json.dumps(found))
        return
    everything = {name: worker(__file__, name) for name in FRAMEWORKS}
    content = {"environment": environment(1, PACKAGES), "findings": everything}
    write_json(RESULTS / "export_gaps.json", content)
    GUIDE.write_text(insert(GUIDE.read_text("utf-8"), table(everything)), "utf-8")


if __name__ == "__main__":
    main()

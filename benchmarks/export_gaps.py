"""Which layers each framework's exporter can write: the table of known gaps in the export guide.

    python benchmarks/export_gaps.py

A small student with each layer goes through `export_onnx`, verification included, in a process for
each framework. What fails is a gap; the ways round are written here. The findings stand in
``benchmarks/results/export_gaps.json``, the table in ``docs/guides/export.md`` between its marks.
"""

from __future__ import annotations

import argparse
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
from examples.recipes.comparing import markdown  # noqa: E402

GUIDE = ROOT / "docs" / "guides" / "export.md"
MARKS = "<!-- made by benchmarks/export_gaps.py -->", "<!-- end -->"

WAYS = {
    "LSTM": "a Python loop over the cell, of a fixed length",
    "LSTM, free length": "fix the length and pad; in JAX also as above",
    "GRU": "as LSTM",
    "bilinear resize": "resize the pictures before they reach the student",
    "nearest upsampling": "`repeat` along both axes, or a transposed convolution",
    "transposed convolution": "upsample, then convolve",
    "attention with a mask": "write it with matmul and softmax",
    "group norm": "write it with mean and variance",
    "free height and width": "export one file for each size; adapt average pools to one cell",
    "FFT": "compute the spectrum before the student, or as a matrix product",
    "branch on values": "`where` on both branches",
    "loop until a condition": "a fixed number of steps, masked",
    "Normalization layer": "normalise the pictures before the student, and say so in the metadata",
    "random augmentation": "leave it out of the student: it does nothing in evaluation",
    "batch statistics": "refused on purpose: keep running statistics and use them",
    "scripted module": "pass the module that was scripted",
    "quantised module": "export the module before its quantisation, then `quantize_int8`",
    "float16 weights": "`tolerance=1e-2`, or export float32 and use `convert_float16`",
    "bfloat16 weights": "convert the student to float32",
}
"""The layers in the order of the table, each with what to do where its exporter cannot write it."""

Case = tuple[Any, dict[str, Any]]
"""A student and the arguments of its export."""


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

    steps, pictures = {"input_shape": (8, 4)}, {"input_shape": (3, 8, 8)}
    free = {"dynamic_axes": {"input": {1: "time"}}}
    sizes = {"dynamic_axes": {"input": {2: "height", 3: "width"}}}
    last = lambda x, layer: layer(x)[0][:, -1]  # noqa: E731
    mean = lambda x: x.mean((2, 3))  # noqa: E731
    mask = torch.ones(8, 8).tril() == 0

    def while_loop(x: torch.Tensor) -> torch.Tensor:
        from torch._higher_order_ops import while_loop as loop

        return loop(lambda n, y: n < 3, lambda n, y: (n + 1, y.tanh()), (torch.tensor(0), x))[1]

    norm = nn.BatchNorm2d(3, track_running_stats=False)
    lazy = torch.ao.quantization
    return {
        "LSTM": lambda: (Of(last, nn.LSTM(4, 5, batch_first=True)), steps),
        "LSTM, free length": lambda: (Of(last, nn.LSTM(4, 5, batch_first=True)), steps | free),
        "GRU": lambda: (Of(last, nn.GRU(4, 5, batch_first=True)), steps),
        "bilinear resize": lambda: (
            Of(lambda x: F.interpolate(x, (5, 13), mode="bilinear").flatten(1)), pictures),
        "nearest upsampling": lambda: (
            Of(lambda x: F.interpolate(x, scale_factor=2).flatten(1)), pictures),
        "transposed convolution": lambda: (
            Of(lambda x, c: mean(c(x)), nn.ConvTranspose2d(3, 4, 3, 2)), pictures),
        "attention with a mask": lambda: (
            Of(lambda x, a: a(x, x, x, attn_mask=mask)[0].mean(1),
               nn.MultiheadAttention(4, 2, batch_first=True)), steps),
        "group norm": lambda: (
            Of(lambda x, *n: mean(n[1](n[0](x)).relu()), nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)),
            pictures),
        "free height and width": lambda: (
            Of(lambda x, c: mean(c(x)), nn.Conv2d(3, 4, 3, 2)), pictures | sizes),
        "FFT": lambda: (Of(lambda x: torch.fft.rfft(x, dim=1).abs().mean(2)), steps),
        "branch on values": lambda: (
            Of(lambda x: x if float(x.abs().sum()) >= 0 else -x), {"input_shape": (6,)}),
        "loop until a condition": lambda: (Of(while_loop), {"input_shape": (6,)}),
        "batch statistics": lambda: (Of(lambda x, n: n(x).amax((2, 3)), norm), pictures),
        "scripted module": lambda: (torch.jit.script(nn.Linear(6, 3)), {"input_shape": (6,)}),
        "quantised module": lambda: (
            lazy.quantize_dynamic(nn.Sequential(nn.Linear(6, 3)), {nn.Linear}),
            {"input_shape": (6,)}),
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

    weight = tf.Variable(tf.random.stateless_normal((3, 3, 4, 3), (0, 0)))
    pictures = {"input_shape": (8, 8, 3)}
    sizes = {"dynamic_axes": {"input": {1: "height", 2: "width"}}}
    mean = lambda x: tf.reduce_mean(x, (1, 2))  # noqa: E731

    def batch(x: Any) -> Any:
        moments = tf.nn.moments(x, (0, 1, 2))
        return tf.reduce_max(tf.nn.batch_normalization(x, *moments, None, None, 1e-3), (1, 2))

    def of(call: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[], Case]:
        return lambda: (tf.function(call), arguments)

    def branch(x: Any) -> Any:
        return tf.cond(tf.reduce_sum(tf.abs(x)) >= 0, lambda: x, lambda: -x)

    def loop(x: Any) -> Any:
        steps = tf.constant(0)
        return tf.while_loop(lambda n, y: n < 3, lambda n, y: (n + 1, tf.tanh(y)), (steps, x))[1]

    return {
        "bilinear resize": of(
            lambda x: tf.reshape(tf.image.resize(x, (5, 13)), (-1, 195)), pictures),
        "nearest upsampling": of(
            lambda x: tf.reshape(tf.image.resize(x, (16, 16), "nearest"), (-1, 768)), pictures),
        "transposed convolution": of(
            lambda x: mean(tf.nn.conv2d_transpose(x, weight, (tf.shape(x)[0], 16, 16, 4), 2)),
            pictures),
        "free height and width": of(
            lambda x: mean(tf.nn.conv2d(x, tf.transpose(weight, (0, 1, 3, 2)), 2, "VALID")),
            pictures | sizes),
        "FFT": of(
            lambda x: tf.reduce_mean(tf.abs(tf.signal.rfft(tf.transpose(x, (0, 2, 1)))), 1),
            {"input_shape": (8, 4)}),
        "branch on values": of(branch, {"input_shape": (6,)}),
        "loop until a condition": of(loop, {"input_shape": (6,)}),
        "batch statistics": of(batch, pictures),
    }  # fmt: skip


def jax_cases() -> dict[str, Callable[[], Case]]:
    """Students in JAX and flax nnx."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    rngs = nnx.Rngs(0)
    steps, pictures = {"input_shape": (8, 4)}, {"input_shape": (8, 8, 3)}
    free = {"dynamic_axes": {"input": {1: "time"}}}
    sizes = {"dynamic_axes": {"input": {1: "height", 2: "width"}}}
    lstm = nnx.RNN(nnx.OptimizedLSTMCell(4, 5, rngs=rngs))
    gru = nnx.RNN(nnx.GRUCell(4, 5, rngs=rngs))
    up, conv = (kind(3, 4, (3, 3), strides=2, padding="VALID", rngs=rngs)
                for kind in (nnx.ConvTranspose, nnx.Conv))  # fmt: skip
    norm = nnx.GroupNorm(4, num_groups=2, rngs=rngs)
    attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
    mask = jnp.tril(jnp.ones((1, 1, 8, 8)))
    mean = lambda x: x.mean((1, 2))  # noqa: E731
    resize = jax.image.resize
    batch = nnx.BatchNorm(3, rngs=rngs)
    half = jnp.asarray(jax.random.normal(jax.random.key(0), (512, 9)), jnp.float16)

    def of(call: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[], Case]:
        return lambda: (call, arguments)

    return {
        "LSTM": of(lambda x: lstm(x)[:, -1], steps),
        "LSTM, free length": of(lambda x: lstm(x)[:, -1], steps | free),
        "GRU": of(lambda x: gru(x)[:, -1], steps),
        "bilinear resize": of(
            lambda x: resize(x, (x.shape[0], 5, 13, 3), "bilinear").reshape(x.shape[0], -1),
            pictures),
        "nearest upsampling": of(
            lambda x: resize(x, (x.shape[0], 16, 16, 3), "nearest").reshape(x.shape[0], -1),
            pictures),
        "transposed convolution": of(lambda x: mean(up(x)), pictures),
        "attention with a mask": of(lambda x: attention(x, mask=mask).mean(1), steps),
        "group norm": of(lambda x: mean(nnx.relu(norm(conv(x)))), pictures),
        "free height and width": of(lambda x: mean(conv(x)), pictures | sizes),
        "FFT": of(lambda x: jnp.abs(jnp.fft.rfft(x, axis=1)).mean(2), steps),
        "branch on values": of(
            lambda x: jax.lax.cond(jnp.abs(x).sum() >= 0, lambda: x, lambda: -x),
            {"input_shape": (6,)}),
        "loop until a condition": of(
            lambda x: jax.lax.while_loop(
                lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, x))[1],
            {"input_shape": (6,)}),
        "batch statistics": of(
            lambda x: batch(x, use_running_average=False).max((1, 2)), pictures),
        "float16 weights": of(lambda x: x @ half, {"input_shape": (512,), "dtype": "float16"}),
    }  # fmt: skip


def keras_cases() -> dict[str, Callable[[], Case]]:
    """Students in Keras, on the backend of this process."""
    import keras
    import numpy as np
    from keras import layers

    steps, pictures = (8, 4), (8, 8, 3)
    mean = layers.GlobalAveragePooling2D

    def of(shape: tuple[int | None, ...], *parts: Callable[[], Any], **more: Any) -> Any:
        def case() -> Case:
            student = keras.Sequential([keras.Input(shape), *(part() for part in parts)])
            return student, {"input_shape": tuple(size or 8 for size in shape)} | more

        return case

    def adapted() -> Any:
        layer = layers.Normalization()
        layer.adapt(np.random.default_rng(0).normal(3.0, 2.0, (20, *pictures)).astype("float32"))
        return layer

    def attention() -> Case:
        rows = keras.Input(steps)
        part = layers.MultiHeadAttention(2, 2)(rows, rows, use_causal_mask=True)
        student = keras.Model(rows, layers.GlobalAveragePooling1D()(part))
        return student, {"input_shape": steps}

    def batch() -> Case:
        images = keras.Input(pictures)
        values = images - keras.ops.mean(images, axis=0, keepdims=True)
        student = keras.Model(images, layers.GlobalMaxPooling2D()(values))
        return student, {"input_shape": pictures}

    return {
        "LSTM": of(steps, lambda: layers.LSTM(5)),
        "LSTM, free length": of(
            (None, 4), lambda: layers.LSTM(5), dynamic_axes={"input": {1: "time"}}),
        "GRU": of(steps, lambda: layers.GRU(5)),
        "bilinear resize": of(pictures, lambda: layers.Resizing(5, 13), layers.Flatten),
        "nearest upsampling": of(pictures, layers.UpSampling2D, layers.Flatten),
        "transposed convolution": of(pictures, lambda: layers.Conv2DTranspose(4, 3, 2), mean),
        "attention with a mask": attention,
        "group norm": of(
            pictures, lambda: layers.Conv2D(4, 3), lambda: layers.GroupNormalization(2),
            layers.ReLU, mean),
        "free height and width": of(
            (None, None, 3), lambda: layers.Conv2D(4, 3, 2), mean,
            dynamic_axes={"input": {1: "height", 2: "width"}}),
        "Normalization layer": of(pictures, adapted, mean),
        "random augmentation": of(
            pictures, lambda: layers.RandomFlip(), lambda: layers.RandomRotation(0.2), mean),
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
    from mcld_core.export import export_onnx

    warnings.simplefilter("ignore")
    found = {}
    cases = CASES[framework.partition("-")[0]]()
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases.items():
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
        rows.append([name, *cells, way if "**no**" in cells else ""])
    return "\n".join(markdown(["", *heads, "where it is no"], rows))


def insert(page: str, made: str) -> str:
    """The page with the table between its marks."""
    begin, end = map(re.escape, MARKS)
    pattern = re.compile(f"(?<={begin}\n).*?(?={end})", re.DOTALL)
    return pattern.sub(lambda _: f"\n{made}\n\n", page)


def main() -> None:
    """Probe each framework in a process of its own; write the findings and the guide's table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))
    parser.add_argument("--json", type=Path, default=RESULTS / "export_gaps.json")
    parser.add_argument("--guide", type=Path, default=GUIDE)
    parser.add_argument("--worker", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    limit_threads(1)
    if options.worker:
        with contextlib.redirect_stdout(io.StringIO()):
            found = probe(options.worker)
        print(json.dumps(found))
        return
    known = json.loads(options.json.read_text("utf-8"))["findings"] if options.json.exists() else {}
    findings = {name: known.get(name, {}) for name in FRAMEWORKS}
    for framework in options.frameworks:
        findings[framework] = worker(__file__, framework)
        print(framework, *findings[framework].items(), sep="\n  ", flush=True)
    write_json(options.json, {"environment": environment(1, PACKAGES), "findings": findings})
    options.guide.write_text(insert(options.guide.read_text("utf-8"), table(findings)), "utf-8")


if __name__ == "__main__":
    main()

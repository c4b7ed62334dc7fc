"""JAX students: flax nnx modules and plain functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx

from mcld_core.export import export_onnx
from mcld_core.export.jax import free_the_batch
from tests.export.families import FAMILIES, arguments, assert_exports, assert_names_its_exporter
from tests.export.jax_students import build


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    reference = build(family)
    reference.eval()
    assert_exports(export_onnx, build(family), reference, family, tmp_path, channels_last=True)


def test_a_missing_exporter_says_what_to_install(tmp_path: Path) -> None:
    student = build("cnn")
    assert_names_its_exporter(export_onnx, student, "jax2onnx", tmp_path, channels_last=True)


def test_each_modules_mode_comes_back(tmp_path: Path) -> None:
    student = build("cnn")
    student.norm.use_running_average = True
    export_onnx(student, tmp_path / "a.onnx", **arguments("cnn", channels_last=True))
    assert not student.dropout.deterministic
    assert student.norm.use_running_average


@pytest.mark.parametrize("compiled", [False, True])
def test_a_function(compiled: bool, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    weights = {"in": generator.normal(size=(6, 8)), "out": generator.normal(size=(8, 4))}
    weights = {name: jnp.asarray(array, jnp.float32) for name, array in weights.items()}

    def forward(values: Any) -> Any:
        return jnp.tanh(values @ weights["in"]) @ weights["out"]

    student = jax.jit(forward) if compiled else forward
    report = export_onnx(student, tmp_path / "a.onnx", input_shape=(6,), opset=20)
    assert report.framework == "jax"
    assert report.opset == 20
    assert report.max_relative_error < 1e-5


def test_outputs_by_name_in_any_order(tmp_path: Path) -> None:
    """`jax.jit` sorts the keys of a dict."""
    weight = jnp.ones((6, 3), jnp.float32)
    student = lambda rows: {"z": rows @ weight, "a": rows * 2}  # noqa: E731
    export_onnx(student, tmp_path / "a.onnx", input_shape=(6,))
    rows = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    runner = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    for name, got in zip("az", runner.run(["a", "z"], {"input": rows}), strict=True):
        np.testing.assert_allclose(got, student(rows)[name], atol=1e-5)


class Pools(nnx.Module):
    """Convolution, batch norm and pooling whose window is given by position, as users write it."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv, self.norm = nnx.Conv(3, 6, (3, 3), rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
        self.head = nnx.Linear(6, 10, rngs=rngs)

    def __call__(self, images: Any) -> Any:
        values = nnx.relu(self.norm(self.conv(images)))
        values = nnx.max_pool(values, (2, 2), strides=(2, 2))
        values = nnx.relu(nnx.avg_pool(values, (2, 2), (2, 2), "SAME"))
        return self.head(values.max((1, 2)))


def test_pooling_by_position(tmp_path: Path) -> None:
    path, pooling = tmp_path / "a.onnx", nnx.max_pool
    with jax.numpy_dtype_promotion("standard"):  # nnx's own mean divides by an int64
        report = export_onnx(Pools(), path, input_shape=(10, 10, 3))
    assert report.max_relative_error < 1e-5
    assert {"MaxPool", "AveragePool"} <= {node.op_type for node in onnx.load(path).graph.node}
    assert nnx.max_pool is pooling


def test_a_pooling_written_in_another_way_stays() -> None:
    """Onnxruntime takes it, or says that it does not."""
    import onnx_ir

    x = onnx_ir.Value(name="x")
    pool = onnx_ir.node("MaxPool", [x], {"kernel_shape": [1, 2, 2, 1]})
    graph = onnx_ir.Graph([x], pool.outputs, nodes=[pool])
    free_the_batch(onnx_ir.Model(graph, ir_version=10))
    assert list(pool.attributes["kernel_shape"].as_ints()) == [1, 2, 2, 1]


@pytest.mark.parametrize("kind", ["max_pool", "avg_pool"])
def test_pooling_by_position_in_linen(kind: str, tmp_path: Path) -> None:
    from flax import linen

    class Pooled(linen.Module):
        @linen.compact
        def __call__(self, images: Any) -> Any:
            values = linen.Conv(4, (3, 3))(images)
            values = getattr(linen, kind)(values, (2, 2), (2, 2))
            return linen.Dense(3)(values.mean((1, 2)))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        student, pooling = Pooled(), getattr(linen, kind)
        variables = student.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
        path = tmp_path / "a.onnx"
        report = export_onnx(lambda x: student.apply(variables, x), path, input_shape=(8, 8, 3))
    assert report.max_relative_error < 1e-5
    assert getattr(linen, kind) is pooling


def test_tokens_of_int64_stay_int64(tmp_path: Path) -> None:
    """JAX takes them as int32 unless it is told otherwise."""
    table = jnp.asarray(np.random.default_rng(0).normal(size=(50, 8)), jnp.float32)
    tokens, path = np.arange(24).reshape(4, 6) * 2, tmp_path / "a.onnx"
    with jax.enable_x64(False):
        report = export_onnx(lambda rows: table[rows].mean(1), path, example_input=tokens)
    assert report.max_relative_error < 1e-5
    runner = onnxruntime.InferenceSession(path)
    assert runner.get_inputs()[0].type == "tensor(int64)"
    expected = np.asarray(table)[tokens].mean(1)
    np.testing.assert_allclose(runner.run(None, {"input": tokens})[0], expected, atol=1e-6)


@pytest.mark.parametrize("count_include_pad", [True, False])
def test_pooling_over_a_border(count_include_pad: bool, tmp_path: Path) -> None:
    """Widths of the border in numbers, all of them different; values below the border's 0."""

    def forward(images: Any) -> Any:
        borders = ((0, 1), (2, 1))
        largest = nnx.max_pool(images - 9, (3, 3), strides=(2, 2), padding=borders)
        means = nnx.avg_pool(images, (3, 3), padding=borders, count_include_pad=count_include_pad)
        rows = images.shape[0]
        return jnp.concatenate([largest.reshape(rows, -1), means.reshape(rows, -1)], 1)

    with jax.numpy_dtype_promotion("standard"):  # nnx's own mean divides by an int64
        report = export_onnx(forward, tmp_path / "a.onnx", input_shape=(9, 8, 3))
    assert report.max_relative_error < 1e-5

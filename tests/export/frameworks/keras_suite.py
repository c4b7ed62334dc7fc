"""Keras students on the backend of this process; run by test_keras.py, a process a backend."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import onnx
import pytest

from mcld_core.__main__ import main
from mcld_core.export import export_onnx
from tests.export.families import (
    FAMILIES,
    TOKENS,
    assert_exports,
    assert_names_its_exporter,
    token_rows,
)
from tests.export.keras_students import SHAPE, build

# Keras 3.15 turns its variables to NumPy 2 without the keyword that NumPy asks for.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def predict(student: keras.Model, *inputs: np.ndarray) -> np.ndarray:
    return student.predict_on_batch(list(inputs) if len(inputs) > 1 else inputs[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    student = build(family)

    def forward(*inputs: np.ndarray) -> np.ndarray:
        return predict(build(family), *inputs)

    assert_exports(export_onnx, student, forward, family, tmp_path, channels_last=True)


def test_a_grouped_convolution(tmp_path: Path) -> None:
    """Keras on TensorFlow compiles it by XLA, where tf2onnx cannot look."""
    layers = keras.layers
    parts = [layers.Conv2D(6, 3, groups=3), layers.Flatten(), layers.Dense(3)]
    student = keras.Sequential([keras.Input(SHAPE), *parts])
    report = export_onnx(student, tmp_path / "a.onnx", input_shape=SHAPE)
    assert report.max_relative_error < 1e-5


def test_a_missing_exporter_says_what_to_install(tmp_path: Path) -> None:
    backends = {"torch": "onnxscript", "tensorflow": "tf2onnx", "jax": "jax2onnx"}
    exporter, student = backends[keras.backend.backend()], build("cnn")
    assert_names_its_exporter(export_onnx, student, exporter, tmp_path, channels_last=True)


@pytest.mark.parametrize("axes", [1, 2])
def test_pooling_with_and_without_padding(axes: int, tmp_path: Path) -> None:
    layers = keras.layers
    kinds = {1: (layers.MaxPooling1D, layers.AveragePooling1D),
             2: (layers.MaxPooling2D, layers.AveragePooling2D)}  # fmt: skip
    largest, mean = kinds[axes]
    shape = (*[9] * axes, 3)
    pools = [mean(2), mean(2, 1), largest(3, 2, padding="same"), largest(2, 1)]
    student = keras.Sequential([keras.Input(shape), *pools, layers.Flatten()])
    report = export_onnx(student, tmp_path / "a.onnx", input_shape=shape)
    assert report.max_relative_error < 1e-5


def test_inputs_by_name(tmp_path: Path) -> None:
    rows = token_rows(4, length=TOKENS)
    swapped = {"mask": rows["mask"], "tokens": rows["tokens"]}
    report = export_onnx(build("encoder"), tmp_path / "a.onnx", example_input=swapped)
    assert set(report.inputs) == {"tokens", "mask"}
    assert report.framework == f"keras on {keras.backend.backend()}"


def test_a_distiller_exports_its_student(tmp_path: Path) -> None:
    student, teacher = build("cnn"), build("depthwise")
    distiller = keras.distillation.Distiller(
        teacher, student, keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence())
    )
    path = tmp_path / "a.onnx"
    export_onnx(distiller, path, input_shape=SHAPE)
    count = sum(int(np.prod(weight.dims)) for weight in onnx.load(path).graph.initializer)
    assert count <= 1.2 * student.count_params() < student.count_params() + teacher.count_params()


def test_a_keras_file(tmp_path: Path) -> None:
    build("cnn").save(tmp_path / "student.keras")
    report = export_onnx(tmp_path / "student.keras", tmp_path / "a.onnx", input_shape=SHAPE)
    assert report.max_relative_error < 1e-5
    command = ["--checkpoint", str(tmp_path / "student.keras"), "--out", str(tmp_path / "b.onnx")]
    assert main(["export", *command]) == 0  # the model knows its shape
    again = [entry.name for entry in onnx.load(tmp_path / "b.onnx").graph.input]
    assert again == list(report.inputs)


def test_a_damaged_keras_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "student.keras"
    build("cnn").save(path)
    path.write_bytes(path.read_bytes()[:2000])
    command = ["export", "--checkpoint", str(path), "--out", str(tmp_path / "a.onnx")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: export_onnx: student is the path {path}, which cannot be read")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_normalization_layer(tmp_path: Path) -> None:
    """Its mean and variance are no variables of the model: EfficientNetV2 begins with one."""
    normalize = keras.layers.Normalization()
    normalize.adapt(np.random.default_rng(0).normal(3.0, 2.0, (20, *SHAPE)).astype("float32"))
    student = keras.Sequential([keras.Input(SHAPE), normalize, *build("cnn").layers[1:]])
    report = export_onnx(student, tmp_path / "a.onnx", input_shape=SHAPE)
    assert report.inputs == ("input",)
    assert report.max_relative_error < 1e-5


def test_a_damaged_weight_of_a_keras_file(tmp_path: Path) -> None:
    path = tmp_path / "student.keras"
    build("cnn").save(path)
    content = bytearray(path.read_bytes())
    at = len(content) - len(content) // 3
    content[at : at + 7] = b"bbbbbbb"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"it is damaged, the checksum of .* does not fit"):
        export_onnx(path, tmp_path / "a.onnx", input_shape=SHAPE)


def test_each_shape_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On JAX, a call of a model that is not compiled compiles each of its operations."""
    calls = []
    call = keras.Model.__call__
    monkeypatch.setattr(
        keras.Model, "__call__", lambda *x, **named: calls.append(1) or call(*x, **named)
    )
    export_onnx(build("cnn"), tmp_path / "a.onnx", input_shape=SHAPE)
    if keras.backend.backend() == "jax":
        assert len(calls) == 3 + 1  # three batches, and the exporter
    else:
        assert len(calls) > 3

"""TensorFlow students: modules, functions, SavedModels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from mcld_core.export import export_onnx
from tests.export.families import FAMILIES, assert_exports, assert_names_its_exporter, feeds
from tests.export.tensorflow_students import Student

SHAPE = (12, 12, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    student = Student(family)
    assert_exports(export_onnx, student, student, family, tmp_path, channels_last=True)


def test_a_missing_exporter_says_what_to_install(tmp_path: Path) -> None:
    student = Student("cnn")
    assert_names_its_exporter(export_onnx, student, "tf2onnx", tmp_path, channels_last=True)


def agrees(path: Path, student: Student) -> bool:
    inputs = feeds("cnn", channels_last=True)["input"]
    runner = onnxruntime.InferenceSession(str(path))
    (got,) = runner.run(None, {runner.get_inputs()[0].name: inputs})
    expected = student(tf.constant(inputs)).numpy()
    return bool(np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max())


def test_a_function_and_its_opset(tmp_path: Path) -> None:
    student, path = Student("cnn"), tmp_path / "a.onnx"
    report = export_onnx(tf.function(student.cnn), path, input_shape=SHAPE, opset=17)
    assert report.opset == 17
    assert agrees(path, student)


def test_a_saved_model_folder(tmp_path: Path) -> None:
    student, path = Student("cnn"), tmp_path / "a.onnx"
    spec = tf.TensorSpec([None, *SHAPE], tf.float32, name="images")
    serving = tf.function(student.cnn).get_concrete_function(spec)
    student.cnn(tf.zeros((1, *SHAPE)))
    tf.saved_model.save(student, str(tmp_path / "saved"), signatures=serving)
    report = export_onnx(tmp_path / "saved", path, input_shape=SHAPE, input_names=["images"])
    assert report.framework == "tensorflow"
    assert report.inputs == ("images",)
    assert agrees(path, student)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    signature = loaded.signatures["serving_default"]
    export_onnx(signature, path, input_shape={"images": SHAPE}, output_names=["logits"])
    assert agrees(path, student)


def test_a_saved_model_without_a_serving_signature(tmp_path: Path) -> None:
    holder = tf.Module()
    holder.variable = tf.Variable(1.0)
    tf.saved_model.save(holder, str(tmp_path / "saved"))
    with pytest.raises(TypeError, match="needs to be callable or to have a signature"):
        export_onnx(tmp_path / "saved", tmp_path / "a.onnx", input_shape=SHAPE)


def test_a_tensor_from_outside_the_function_becomes_a_weight(tmp_path: Path) -> None:
    """tf2onnx makes an input of it, so that Keras' Normalization failed by every route."""
    weight, path = tf.random.stateless_normal((6, 200), (0, 0)), tmp_path / "a.onnx"
    report = export_onnx(tf.function(lambda rows: rows @ weight), path, input_shape=(6,))
    assert report.inputs == ("input",)
    assert report.max_relative_error < 1e-5


def test_a_function_compiled_by_xla_within_the_student(tmp_path: Path) -> None:
    """As Keras makes one of each grouped convolution."""
    function = tf.function

    @function
    def student(rows: tf.Tensor) -> tf.Tensor:
        compiled = tf.function(lambda: tf.nn.relu(rows), jit_compile=True)
        return compiled() * 2

    report = export_onnx(student, tmp_path / "a.onnx", input_shape=(6,))
    assert report.max_relative_error < 1e-5
    assert tf.function is function

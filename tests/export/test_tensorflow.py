"""TensorFlow students: modules, functions, SavedModels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from mcld_core.export import export_onnx
from tests.export.families import CLASSES, FAMILIES, VOCABULARY, assert_exports, feeds

SHAPE = (12, 12, 3)


class Student(tf.Module):
    """Variables by name, drawn once; batch norm is that of inference."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)
        self.classes = CLASSES[family]
        self.weights: dict[str, tf.Variable] = {}
        self.body = getattr(self, family)

    def weight(self, name: str, *shape: int, scale: float = 0.3) -> tf.Variable:
        if name not in self.weights:
            values = self.generator.normal(0.0, scale, size=shape)
            self.weights[name] = tf.Variable(values.astype(np.float32))
        return self.weights[name]

    def batch_norm(self, values: Any, name: str) -> Any:
        width = values.shape[-1]
        mean, deviation, offset, scale = (
            self.weight(f"{name}.{part}", width) for part in ("mean", "std", "offset", "scale")
        )
        variance = deviation**2 + 0.5
        return tf.nn.batch_normalization(values, mean, variance, offset, scale, 1e-3)

    def head(self, values: Any) -> Any:
        return values @ self.weight("head", values.shape[-1], self.classes)

    def cnn(self, images: Any) -> Any:
        values = tf.nn.conv2d(images, self.weight("conv", 3, 3, 3, 8), 1, "SAME")
        values = tf.nn.max_pool2d(tf.nn.relu(self.batch_norm(values, "bn")), 2, 2, "VALID")
        return self.head(tf.reshape(values, (-1, 6 * 6 * 8)))

    def depthwise(self, images: Any) -> Any:
        filters = self.weight("depthwise", 3, 3, 3, 2)
        values = tf.nn.depthwise_conv2d(images, filters, [1, 2, 2, 1], "SAME")
        values = tf.nn.conv2d(values, self.weight("pointwise", 1, 1, 6, 16), 1, "SAME")
        return self.head(tf.reduce_mean(tf.nn.relu6(values), axis=(1, 2)))

    def encoder(self, tokens: Any, mask: Any) -> Any:
        values = tf.gather(self.weight("embedding", VOCABULARY, 16, scale=1.0), tokens)
        query, key, value = (values @ self.weight(name, 16, 16) for name in "qkv")
        scores = tf.matmul(query, key, transpose_b=True) / 4
        scores = tf.where(mask[:, None, :] > 0, scores, -1e9)
        values = values + tf.nn.softmax(scores) @ value
        values = values + tf.nn.gelu(values @ self.weight("up", 16, 32)) @ self.weight(
            "down", 32, 16
        )
        valid = tf.cast(mask, tf.float32)[..., None]
        return self.head(tf.reduce_sum(values * valid, 1) / tf.reduce_sum(valid, 1))

    def series(self, values: Any) -> Any:
        values = tf.nn.conv1d(values, self.weight("conv", 5, 4, 12), 1, "SAME")
        return self.head(tf.reduce_mean(tf.nn.elu(self.batch_norm(values, "bn")), axis=1))

    def __call__(self, *inputs: Any) -> Any:
        return self.body(*inputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    student = Student(family)
    assert_exports(export_onnx, student, student, family, tmp_path, channels_last=True)


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

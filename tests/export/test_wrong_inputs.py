"""Wrong arguments: what came and what to do, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcld_core.export import export_onnx
from tests.export.families import assert_names_its_exporter, token_rows
from tests.export.torch_students import build

ROWS = token_rows(3, dtype="int64")

WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "exactly one of input_shape and example_input is needed; got neither"),
    ({"input_shape": (3,), "example_input": np.ones((1, 3))}, "got both"),
    ({"input_shape": 3}, r"got 3; write \(3, 32, 32\)"),
    ({"input_shape": (3, 0)}, r"sizes above 0.*got \(3, 0\)"),
    ({"input_shape": (None, 3)}, "name it in dynamic_axes"),
    ({"input_shape": (12,), "dtype": "int64"}, "dtype int64 need example_input"),
    ({"example_input": np.float32(1)}, r"of shape \(\)"),
    ({"example_input": np.ones((0, 3))}, r"one row or more; got input of shape \(0, 3\)"),
    ({"example_input": (np.ones((2, 3)), np.ones((4, 3)))}, "same number of rows"),
    ({"example_input": ROWS, "input_names": ["mask", "tokens"]}, "keys of the inputs differ"),
    ({"input_shape": (3,), "input_names": ["a", "b"]}, r"needs 1 different names.*\['a', 'b'\]"),
    ({"input_shape": (3,), "dynamic_axes": {"x": {1: "t"}}}, r"names the input 'x'.*\['input'\]"),
    ({"input_shape": (3,), "dynamic_axes": {"input": {0: "b"}}}, "got axis 0 of 'input'"),
    ({"input_shape": (1,), "dynamic_axes": {"input": {1: "t"}}}, "a size of 2 or more"),
    ({"input_shape": (3, 4), "dynamic_axes": {"input": {1: "t", 2: "t"}}}, "got 3 and 4"),
    ({"input_shape": (3, 12, 12), "tolerance": 0.0}, "tolerance needs to be above 0; got 0.0"),
    ({"input_shape": (3, 12, 12), "output_names": ["a", "b"]}, r"needs 1 names.*got \['a', 'b'\]"),
    ({"input_shape": (3, 12, 12), "metadata": {"classes": ["a"]}}, "got 1 names.*'logits': 10"),
    ({"input_shape": (3, 12, 12), "metadata": {"classes": 10}}, "needs a list of names; got 10"),
    ({"input_shape": (3, 12, 12), "metadata": {"classes": "abcdefghij"}}, "got 'abcdefghij'"),
    ({"input_shape": (3, 12, 12), "metadata": {"x": {1}}}, "JSON holds; got 'x' of type set"),
    ({"input_shape": (3, 12, 12), "metadata": {"x": [Path()]}}, "JSON holds; got 'x' of type list"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG)
def test_arguments(arguments: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=text) as error:
        export_onnx(build("cnn"), tmp_path / "a.onnx", **arguments)
    assert str(error.value).startswith("export_onnx: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("student", "kind", "text"),
    [
        (np.ones(3), TypeError, "got numpy.ndarray; wrap it"),
        ({"student": {"weight": 1}}, TypeError, "weights without the model"),
        ("no/such/model.keras", FileNotFoundError, "does not exist"),
        (Path(__file__), ValueError, "neither a .keras file nor a SavedModel"),
    ],
)
def test_students(student: Any, kind: type[Exception], text: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=text):
        export_onnx(student, tmp_path / "a.onnx", input_shape=(3,))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="needs a folder that exists"):
        export_onnx(build("cnn"), tmp_path / "no" / "a.onnx", input_shape=(3, 12, 12))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_says_what_to_install(package: str, tmp_path: Path) -> None:
    student = build("cnn")
    assert_names_its_exporter(export_onnx, student, package, tmp_path, channels_last=False)


def test_an_opset_that_the_exporter_does_not_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"opset 999 is not what the exporter wrote; got \d\d;"):
        export_onnx(build("cnn"), tmp_path / "a.onnx", input_shape=(3, 12, 12), opset=999)
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_from_outside_a_tensorflow_function(tmp_path: Path) -> None:
    """tf2onnx makes an input of it."""
    import tensorflow as tf

    weight = tf.ones((6, 2))
    student = tf.function(lambda rows: rows @ weight)
    with pytest.raises(ValueError, match="captures a tensor: make it a variable"):
        export_onnx(student, tmp_path / "a.onnx", input_shape=(6,))
    assert list(tmp_path.iterdir()) == []

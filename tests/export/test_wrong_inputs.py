"""Wrong arguments: what came and what to do, before anything is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mcld_core.export import export_onnx
from tests.export.families import token_rows
from tests.export.torch_students import build

ROWS = token_rows(3, dtype="int64")


class Keeping(nn.Linear):
    """A layer that keeps a tensor of its graph, as hooks for features do."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.last = self.weight * 2.0


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "exactly one of input_shape and example_input is needed; got neither"),
    ({"input_shape": (3,), "example_input": np.ones((1, 3))}, "got both"),
    ({"input_shape": 3}, r"a tuple of sizes above 0, without the batch axis; got 3\."),
    ({"input_shape": (3, 0)}, r"sizes above 0.*got \(3, 0\)"),
    ({"input_shape": (None, 3)}, "name it in dynamic_axes"),
    ({"input_shape": (12,), "dtype": "int64"}, "dtype int64 need example_input"),
    ({"input_shape": (12,), "dtype": torch.float32}, "dtype needs a name that NumPy knows; got Ty"),
    ({"example_input": {}}, "needs one input or more; got {}"),
    ({"example_input": torch.ones(4, 6, dtype=torch.bfloat16)}, "in a type that NumPy holds"),
    ({"example_input": np.float32(1)}, r"of shape \(\)"),
    ({"example_input": np.ones((0, 3))}, r"one row or more; got input of shape \(0, 3\)"),
    ({"example_input": (np.ones((2, 3)), np.ones((4, 3)))}, "same number of rows"),
    ({"example_input": ROWS, "input_names": ["mask", "tokens"]}, r"got \['mask', 'tokens'\]"),
    ({"input_shape": (3,), "input_names": ["a", "b"]}, r"needs 1 different names.*\['a', 'b'\]"),
    ({"input_shape": (3,), "dynamic_axes": {"x": {1: "t"}}}, r"\['input'\].*got {'x': {1: 't'}}"),
    ({"input_shape": (3,), "dynamic_axes": {"input": "t"}}, r"got {'input': 't'}, .*Write {'input"),
    ({"input_shape": (3,), "dynamic_axes": {"input": {0: "b"}}}, r"{0: 'b'}}, wh.* is \(4, 3\)"),
    ({"input_shape": (3,), "dynamic_axes": {"input": {"t": 1}}}, r"axes from 1 .*{'t': 1}}, where"),
    ({"input_shape": (1,), "dynamic_axes": {"input": {1: "t"}}}, "a size of 2 or more"),
    ({"input_shape": (3, 12, 12), "tolerance": 0.0}, "tolerance needs a finite number > 0 and ≤ 1"),
    ({"input_shape": (3, 12, 12), "tolerance": "1e-3"}, "> 0 and ≤ 1; got '1e-3'"),
    ({"input_shape": (3, 12, 12), "metadata": ["a"]}, r"metadata needs a dict; got \['a'\]"),
    ({"input_shape": (3,), "dynamic_axes": ["input"]}, "dynamic_axes needs a dict; got"),
    ({"input_shape": (3, 12, 12), "metadata": {"x": {1}}}, "JSON holds; got 'x' of type set"),
    ({"input_shape": (3, 12, 12), "metadata": {"x": [Path()]}}, "JSON holds; got 'x' of type list"),
    ({"input_shape": (3, 12, 12), "opset": 999}, r"opset needs an int in 1 … \d\d; got 999"),
    ({"input_shape": (3, 12, 12), "opset": 0}, r"opset needs an int in 1 … \d\d; got 0"),
    ({"input_shape": (3, 12, 12), "opset": "18"}, r"opset needs an int in 1 … \d\d; got '18'"),
    ({"input_shape": (3, 12, 12), "opset": 7}, "opset 7 is not what the exporter wrote; got 1"),
    ({"input_shape": (3, 12, 12), "output_names": ["a", "b"]}, r"needs 1 names.*got \['a', 'b'\]"),
    ({"input_shape": (3, 12, 12), "output_names": "input"}, "none an input's; got"),
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
        (np.ones(3), TypeError, "got numpy.ndarray. Wrap it"),
        ({"student": {"weight": 1}}, TypeError, "got builtins.dict. Wrap it"),
        ("no/such/model.keras", FileNotFoundError, "does not exist"),
        (Path(__file__), ValueError, "neither a .keras file nor a SavedModel"),
        (Keeping(), ValueError, "the student cannot be copied; got RuntimeError: Only Tensors"),
    ],
)
def test_students(student: Any, kind: type[Exception], text: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=text):
        export_onnx(student, tmp_path / "a.onnx", input_shape=(3,))
    assert list(tmp_path.iterdir()) == []


def test_a_text_is_one_name(tmp_path: Path) -> None:
    names = {"input_names": "ab", "output_names": "cd"}
    report = export_onnx(build("cnn"), tmp_path / "a.onnx", input_shape=(3, 12, 12), **names)
    assert (report.inputs, report.outputs) == (("ab",), ("cd",))
    two = nn.ModuleDict({"a": nn.Linear(2, 3)})
    two.forward = lambda rows: (two["a"](rows), rows)
    with pytest.raises(ValueError, match=r"needs 2 names.*, all different .* got \['ab'\]"):
        export_onnx(two, tmp_path / "a.onnx", input_shape=(2,), output_names="ab")
    with pytest.raises(ValueError, match=r"all different .* got \['a', 'a'\]"):
        export_onnx(two, tmp_path / "a.onnx", input_shape=(2,), output_names=["a", "a"])


def test_all_missing_packages_are_named_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="run `pip install onnx onnxruntime onnxscript`"):
        export_onnx(build("cnn"), tmp_path / "a.onnx", input_shape=(3, 12, 12))


@pytest.mark.parametrize(
    ("student", "arguments", "text"),
    [
        (nn.Linear(6, 3).half(), {}, "the inputs {'input': .'float32'.*got RuntimeError: .*dtype"),
        (nn.Linear(5, 3), {}, "shapes cannot be multiplied"),
        (nn.BatchNorm1d(6, track_running_stats=False), {}, "Expected more than 1 value"),
        (nn.Linear(6, 3), {"dtype": "bool"}, "inputs of dtype bool need example_input"),
    ],
)
def test_a_student_that_fails_by_itself(
    student: nn.Module, arguments: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^export_onnx: .*{text}") as error:
        export_onnx(student, tmp_path / "a.onnx", input_shape=(6,), **arguments)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []

"""An export that is wrong is found out, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from mcld_core.export import export_onnx, graph
from mcld_core.export import torch as torch_export
from mcld_core.export.verify import decisions_differ, relative_error
from tests.export.families import SIZE
from tests.export.torch_students import build

SHAPE = (3, SIZE, SIZE)
write = torch_export.write


def change_weights(model: Any, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for weight in model.graph.initializer:
        if len(weight.dims) > 1 and weight.data_type == onnx.TensorProto.FLOAT:
            changed = change(numpy_helper.to_array(weight)).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(changed, weight.name))


def spoil(monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]) -> None:
    def spoilt(student: Any, request: Any, names: Any, path: Path) -> str:
        tool = write(student, request, names, path)
        damage(path)
        return tool

    monkeypatch.setattr(torch_export, "write", spoilt)


def perturb(path: Path) -> None:
    model = onnx.load(path)
    change_weights(model, lambda weight: weight * 1.01)
    onnx.save(model, path)


def forget_the_bias(path: Path) -> None:
    model = onnx.load(path)
    for weight in model.graph.initializer:
        if list(weight.dims) == [10]:
            weight.CopyFrom(numpy_helper.from_array(np.zeros(10, np.float32), weight.name))
    onnx.save(model, path)


def garbage(path: Path) -> None:
    model = onnx.load(path)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (perturb, r"relative error of \d.*tolerance is 1.0e-04; no file was written"),
        (forget_the_bias, "relative error of"),
        (garbage, "not valid ONNX"),
    ],
)
def test_damage_is_caught(
    damage: Callable[[Path], None], text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoil(monkeypatch, damage)
    with pytest.raises(ValueError, match=text):
        export_onnx(build("cnn"), tmp_path / "a.onnx", input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_survives_a_failed_export(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.onnx"
    export_onnx(build("cnn"), path, input_shape=SHAPE)
    before = path.read_bytes()
    spoil(monkeypatch, perturb)
    with pytest.raises(ValueError, match="relative error"):
        export_onnx(build("cnn"), path, input_shape=SHAPE)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_batch_norm_in_train_mode_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def in_train_mode(student: Any, request: Any, names: Any, path: Path) -> str:
        class Batch(nn.Module):
            def forward(self, values: torch.Tensor) -> torch.Tensor:
                centred = values - values.mean((0, 2, 3), keepdim=True)
                return centred / (values.var((0, 2, 3), keepdim=True) + 1e-5).sqrt()

        layers = [Batch() if isinstance(m, nn.BatchNorm2d) else m for m in student]
        return write(nn.Sequential(*layers), request, names, path)

    monkeypatch.setattr(torch_export, "write", in_train_mode)
    with pytest.raises(ValueError, match="differs between ONNX and the student"):
        export_onnx(build("cnn"), tmp_path / "a.onnx", input_shape=SHAPE)


def test_an_exporter_that_changes_the_student_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def careless(student: Any, request: Any, names: Any, path: Path) -> str:
        with torch.no_grad():
            student[-1].weight.mul_(1.5)
        return write(student, request, names, path)

    monkeypatch.setattr(torch_export, "write", careless)
    with pytest.raises(ValueError, match="relative error"):
        export_onnx(build("cnn"), tmp_path / "a.onnx", input_shape=SHAPE)


class Mean(nn.Module):
    """The mean over time of (batch, time, 3)."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.mean(1)


def constant(axis: int) -> Callable[..., str]:
    """An exporter of `Mean` that takes the example's batch or length for a constant."""

    def written(student: Any, request: Any, names: Any, path: Path) -> str:
        node, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
        shape = request.example["input"].shape if axis == 0 else (0, 0, 3)
        graph = onnx.helper.make_graph(
            [
                node("Reshape", ["input", "shape"], ["reshaped"]),
                node("ReduceSum", ["reshaped", "one"], ["sum"], keepdims=0),
                node("Div", ["sum", "length"], ["logits"]),
            ],
            "constant",
            [tensor("input", onnx.TensorProto.FLOAT, ["batch", "time", 3])],
            [tensor("logits", onnx.TensorProto.FLOAT, [None, 3])],
            [
                numpy_helper.from_array(np.array(shape), "shape"),
                numpy_helper.from_array(np.array([1]), "one"),
                numpy_helper.from_array(np.array(8.0, np.float32), "length"),
            ],
        )
        opset = onnx.helper.make_opsetid("", 18)
        onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=[opset]), path)
        return "constant"

    return written


@pytest.mark.parametrize(
    ("axis", "text"), [(0, "exported as a constant"), (1, "differs between ONNX and the student")]
)
def test_a_constant_axis_is_caught(
    axis: int, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.onnx"
    arguments: dict[str, Any] = {"input_shape": (8, 3)}
    if axis == 1:
        arguments["dynamic_axes"] = {"input": {1: "time"}}
    export_onnx(Mean(), path, **arguments)  # torch's own is right
    path.unlink()
    monkeypatch.setattr(torch_export, "write", constant(axis))
    with pytest.raises(ValueError, match=text):
        export_onnx(Mean(), path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_exporter_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.head(values) if float(values.abs().sum()) >= 0 else -self.head(values)

    with pytest.raises(RuntimeError, match=r"^export_onnx: the exporter of torch fails"):
        export_onnx(Branching(), tmp_path / "a.onnx", input_shape=(6,))
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_are_not_finite(tmp_path: Path) -> None:
    student = build("cnn")
    with torch.no_grad():
        student[-1].bias[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        export_onnx(student, tmp_path / "a.onnx", input_shape=SHAPE)


def test_external_data_becomes_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def split(path: Path) -> None:
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
        assert (path.parent / "weights").exists()

    spoil(monkeypatch, split)
    path = tmp_path / "a.onnx"
    export_onnx(build("cnn"), path, input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == [path]
    onnx.checker.check_model(path.read_bytes(), full_check=True)


def test_a_student_that_one_file_cannot_hold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(graph, "LARGEST", 1000)
    with pytest.raises(ValueError, match=r"holds 1000 bytes; got a student of \d+; no file"):
        export_onnx(build("cnn"), tmp_path / "a.onnx", input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_relative_error_is_by_row_of_logits() -> None:
    expected = np.array([[100.0, 0.0], [1.0, 0.5]])
    got = np.array([[100.0, 0.0], [1.0, 0.6]])
    assert relative_error(got, expected) == pytest.approx(0.1)
    assert relative_error(np.full((1, 2), np.nan), np.ones((1, 2))) == np.inf
    assert relative_error(np.zeros((2, 2)), np.zeros((2, 2))) == 0.0


def test_ties_within_the_tolerance_are_no_difference() -> None:
    expected = np.array([[1.0, 1.0 - 1e-6, 0.0]])
    swapped = np.array([[1.0 - 1e-6, 1.0, 0.0]])
    assert decisions_differ(swapped, expected, 1e-4) == 0
    assert decisions_differ(swapped, expected, 1e-8) == 1

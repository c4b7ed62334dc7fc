"""An export that is wrong is found out, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from mcld_core.export import export_onnx
from mcld_core.export import torch as torch_export
from mcld_core.export.onnx_file import compare, relative_error
from tests.export.families import SIZE
from tests.export.torch_students import build

SHAPE = (3, SIZE, SIZE)
write = torch_export.write


def change_weights(model: Any, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for weight in model.graph.initializer:
        if len(weight.dims) > 1 and weight.data_type == onnx.TensorProto.FLOAT:
            changed = change(numpy_helper.to_array(weight)).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(changed, weight.name))


def spoil(monkeypatch: pytest.MonkeyPatch, damage: Callable[[Any], None]) -> None:
    """Let the exporter write something else."""

    def spoilt(*arguments: Any) -> Any:
        model = onnx_ir.to_proto(write(*arguments))
        damage(model)
        return onnx_ir.from_proto(model)

    monkeypatch.setattr(torch_export, "write", spoilt)


def perturb(model: Any) -> None:
    change_weights(model, lambda weight: weight * 1.01)


def forget_the_bias(model: Any) -> None:
    for weight in model.graph.initializer:
        if list(weight.dims) == [10]:
            weight.CopyFrom(numpy_helper.from_array(np.zeros(10, np.float32), weight.name))


def garbage(model: Any) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (perturb, r"relative error of \d.*tolerance is 1.0e-04"),
        (forget_the_bias, "relative error of"),
        (garbage, "not valid ONNX"),
    ],
)
def test_damage_is_caught(
    damage: Callable[[Any], None], text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
    def in_train_mode(student: Any, request: Any, names: Any) -> Any:
        class Batch(nn.Module):
            def forward(self, values: torch.Tensor) -> torch.Tensor:
                centred = values - values.mean((0, 2, 3), keepdim=True)
                return centred / (values.var((0, 2, 3), keepdim=True) + 1e-5).sqrt()

        layers = [Batch() if isinstance(m, nn.BatchNorm2d) else m for m in student]
        return write(nn.Sequential(*layers), request, names)

    monkeypatch.setattr(torch_export, "write", in_train_mode)
    with pytest.raises(ValueError, match="differs between ONNX and the student"):
        export_onnx(build("cnn"), tmp_path / "a.onnx", input_shape=SHAPE)


def test_an_exporter_that_changes_the_student_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def careless(student: Any, request: Any, names: Any) -> Any:
        with torch.no_grad():
            student[-1].weight.mul_(1.5)
        return write(student, request, names)

    monkeypatch.setattr(torch_export, "write", careless)
    with pytest.raises(ValueError, match="relative error"):
        export_onnx(build("cnn"), tmp_path / "a.onnx", input_shape=SHAPE)


class Mean(nn.Module):
    """The mean over time of (batch, time, 3)."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.mean(1)


def constant(axis: int) -> Callable[..., Any]:
    """An exporter of `Mean` that takes the example's batch or length for a constant."""

    def written(student: Any, request: Any, names: Any) -> Any:
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
        model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[opset])
        return onnx_ir.from_proto(model)

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


def test_outputs_that_are_not_finite(tmp_path: Path) -> None:
    student = build("cnn")
    with torch.no_grad():
        student[-1].bias[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        export_onnx(student, tmp_path / "a.onnx", input_shape=SHAPE)


def test_relative_error_is_by_row_of_logits() -> None:
    expected = np.array([[100.0, 0.0], [1.0, 0.5]])
    got = np.array([[100.0, 0.0], [1.0, 0.6]])
    assert relative_error(got, expected) == pytest.approx(0.1)
    assert relative_error(np.full((1, 2), np.nan), np.ones((1, 2))) == np.inf
    assert relative_error(np.zeros((2, 2)), np.zeros((2, 2))) == 0.0


def test_another_arg_max_is_a_difference_unless_two_logits_are_equal() -> None:
    """A row of almost nothing: its error is small beside the batch's scale."""
    reference = np.array([[1000.0, 0.0], [2e-3, 1e-3]])
    with pytest.raises(ValueError, match="arg max of output 'logits' differs in 1 rows"):
        compare("logits", np.array([[1000.0, 0.0], [1e-3, 2e-3]]), reference, 2, 1e-2)
    tied = np.array([[1.0, 1.0 - 1e-6, 0.0]])
    assert compare("logits", tied[:, [1, 0, 2]], tied, 1, 1e-4) < 1e-5


@pytest.mark.parametrize("kind", [bool, np.int64])
def test_another_bool_or_int_is_a_difference(kind: type) -> None:
    """Whatever the tolerance: there is no relative error of an index."""
    wanted = np.full((50_000, 2), 1).astype(kind)
    got = wanted.copy()
    assert compare("first", got, wanted, 3, 1e-4) == 0.0
    got[-1, 0] = 0
    with pytest.raises(ValueError, match=r"'first' of \w+ differs .* 1 such places at a batch"):
        compare("first", got, wanted, 3, 2.0)

"""Float16 and int8 files: smaller, measured, refused where they lose too much; and latency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from torch import nn

from mcld_core.export import compare_latency, convert_float16, export_onnx, quantize_int8
from mcld_core.export.deploy import accuracy
from tests.export.families import token_rows
from tests.export.torch_students import build
from tests.export.trained import convnet, digits

EVALUATION = tuple(array[1000:] for array in digits())
CALIBRATION = digits()[0][:300]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "student.onnx"
    export_onnx(convnet(), path, input_shape=(1, 8, 8), metadata={"teacher": "resnet"})
    return path


def test_float16(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    report = convert_float16(source, path, evaluation=EVALUATION)
    assert report.accuracy > 0.9
    assert abs(report.accuracy_drop) <= 0.01
    assert report.size == path.stat().st_size < 0.6 * report.source_size
    kinds = {weight.data_type for weight in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    runner = onnxruntime.InferenceSession(str(path))
    assert runner.get_inputs()[0].type == "tensor(float)"
    metadata = runner.get_modelmeta().custom_metadata_map
    assert metadata["precision"] == "float16"
    assert metadata["teacher"] == "resnet"


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_int8(kind: str, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    calibration = CALIBRATION if kind == "static" else None
    report = quantize_int8(source, path, evaluation=EVALUATION, calibration=calibration)
    assert report.kind == f"int8 {kind}"
    assert abs(report.accuracy_drop) <= 0.01
    assert report.size < 0.5 * report.source_size
    assert report.accuracy == accuracy(path, *EVALUATION)
    assert [entry.name for entry in tmp_path.iterdir()] == ["int8.onnx"]


def test_int8_of_a_transformer_by_input_name(tmp_path: Path) -> None:
    source = tmp_path / "student.onnx"
    rows = token_rows(64, dtype="int64")
    export_onnx(build("encoder"), source, example_input=rows)
    labels = onnxruntime.InferenceSession(str(source)).run(None, rows)[0].argmax(-1)
    path = tmp_path / "int8.onnx"
    report = quantize_int8(source, path, evaluation=(rows, labels), max_accuracy_drop=0.1)
    assert report.size < report.source_size
    assert floats(path) < 0.4 * floats(source)


def floats(path: Path) -> int:
    """Numbers of float32 among the weights; what is left are biases, norms and positions."""
    weights = onnx.load(path).graph.initializer
    return sum(
        int(np.prod(weight.dims))
        for weight in weights
        if weight.data_type == onnx.TensorProto.FLOAT
    )


def spoil(path: Path) -> None:
    """Weights of float16 that are far too large: what a careless conversion may give."""
    model = onnx.load(path)
    for weight in model.graph.initializer:
        if list(weight.dims) == [10, 64]:
            noise = np.random.default_rng(0).normal(size=(10, 64)).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(noise, weight.name))
    onnx.save(model, path)


def test_a_loss_of_accuracy_is_refused(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from onnxruntime import quantization

    static = quantization.quantize_static

    def careless(model: str, path: str, *arguments: object, **options: object) -> None:
        spoil(Path(model))
        static(model, path, *arguments, **options)

    monkeypatch.setattr(quantization, "quantize_static", careless)
    arguments = {"evaluation": EVALUATION, "calibration": CALIBRATION}
    with pytest.raises(ValueError, match=r"int8 static: max_accuracy_drop is 0.0100; got 0\.[1-9]"):
        quantize_int8(source, tmp_path / "a.onnx", **arguments)
    assert list(tmp_path.iterdir()) == []
    quantize_int8(source, tmp_path / "a.onnx", max_accuracy_drop=1.0, **arguments)


def test_wrong_evaluation_sets(source: Path, tmp_path: Path) -> None:
    images, labels = EVALUATION
    with pytest.raises(ValueError, match=r"one int label for each row; got \(5,\) labels"):
        convert_float16(source, tmp_path / "a.onnx", evaluation=(images, labels[:5]))
    with pytest.raises(ValueError, match=r"one array for each of \['input'\]; got 2"):
        convert_float16(source, tmp_path / "a.onnx", evaluation=((images, images), labels))
    assert list(tmp_path.iterdir()) == []


def test_inputs_by_name_and_in_the_files_type(source: Path) -> None:
    images, labels = EVALUATION
    assert accuracy(source, {"input": images.astype(np.float64)}, labels) > 0.9
    with pytest.raises(ValueError, match=r"one array for each of \['input'\]; got \['images'\]"):
        accuracy(source, {"images": images}, labels)
    with pytest.raises(ValueError, match="the input 'input' needs float32; got uint8"):
        accuracy(source, images.astype(np.uint8), labels)


def test_a_damaged_source_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match=f"onnxruntime: {path} cannot be loaded"):
        convert_float16(path, tmp_path / "b.onnx", evaluation=EVALUATION)


def test_int8_where_nothing_is_quantised(tmp_path: Path) -> None:
    student = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    export_onnx(student, tmp_path / "a.onnx", input_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="int8 dynamic: nothing in the student can be quantised"):
        quantize_int8(tmp_path / "a.onnx", tmp_path / "b.onnx", evaluation=EVALUATION)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.onnx"]


def test_int8_in_the_place_of_its_source(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(source.read_bytes())
    report = quantize_int8(path, path, evaluation=EVALUATION)
    assert report.source_size == source.stat().st_size > report.size == path.stat().st_size


def test_latency_compares_two_files(source: Path) -> None:
    found = compare_latency(source, source, EVALUATION[0][:4], repeats=5)
    assert 0 < found.fastest_student <= found.student
    assert found.fastest_ratio == found.fastest_student / found.fastest_teacher
    assert found.ratio == found.student / found.teacher
    assert found.student_size == source.stat().st_size
    assert "latency ratio" in str(found)
    assert str(found).count("fastest") == 3

"""Files whose bytes are no longer those that were written: found, and told in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from examples import predict
from mcld_core.export import cli, compare_latency, convert_float16, export_onnx
from tests.export.test_commands import BUILDER, save

SHAPE = (3, 8, 8)
ROWS = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)


def damage(path: Path, known: bytes) -> None:
    """Seven bytes in the midst of a tensor, which then holds a number of 1e21 or so."""
    content = bytearray(path.read_bytes())
    at = content.index(known) + len(known) // 2 // 4 * 4
    content[at : at + 7] = b"\x62" * 7
    path.write_bytes(content)


def command(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    arguments = ["--checkpoint", str(path), "--out", str(path.with_name("a.onnx"))]
    assert cli.main([*arguments, "--model", BUILDER]) == 2
    assert not path.with_name("a.onnx").exists()
    return capsys.readouterr().err


def test_a_tensor_of_a_checkpoint_that_was_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "a.pt")
    weight = torch.load(path, weights_only=True)["student"]["3.weight"]
    damage(path, weight.numpy().tobytes())
    torch.load(path, weights_only=True)  # torch sees nothing
    error = command(path, capsys)
    assert f"{path} cannot be read: it is damaged, the checksum of a part does not fit" in error


@pytest.mark.parametrize("kind", ["half", "empty", "a picture", "code", "legacy, half"])
def test_an_unreadable_checkpoint_is_one_line_without_bad_advice(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text of torch itself has a dozen lines and proposes to run the file's code."""
    path = save(tmp_path / "a.pt")
    if kind == "code":
        torch.save({"name": Path("x"), "student": torch.nn.Linear(2, 2)}, path)
    elif kind == "legacy, half":
        torch.save({"name": "a"}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    pieces = {"empty": b"", "a picture": b"\x89PNG\r\n\x1a\n" + content[:99], "code": content}
    path.write_bytes(pieces.get(kind, content[: len(content) // 2]))
    error = command(path, capsys)
    assert error.startswith("error: export: ")
    assert str(path) in error
    assert error.count("\n") == 1
    assert "weights_only" not in error
    assert len(error) < 500


def test_a_legacy_checkpoint_without_checksums_is_still_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt")
    content = torch.load(path, weights_only=True)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    arguments = ["--checkpoint", str(path), "--out", str(tmp_path / "a.onnx")]
    assert cli.main([*arguments, "--model", BUILDER]) == 0


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
    path = tmp_path / "student.onnx"
    export_onnx(student, path, input_shape=SHAPE, metadata={"classes": list("abcdefghij")})
    return path


def test_a_weight_of_an_exported_file_that_was_damaged(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = max(onnx.load(exported).graph.initializer, key=lambda weight: len(weight.raw_data))
    damage(exported, weights.raw_data)
    onnx.checker.check_model(str(exported), full_check=True)  # it sees nothing
    said = f"{exported} is damaged, or another tool has changed its network"
    with pytest.raises(ValueError, match=said):
        convert_float16(exported, tmp_path / "b.onnx", evaluation=(ROWS, np.zeros(8, np.int64)))
    with pytest.raises(ValueError, match=said):
        compare_latency(exported, exported, ROWS)
    assert predict.main([str(exported), "cat.png"]) == 2
    assert said in capsys.readouterr().err


def test_a_converted_file_says_what_it_holds(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    evaluation = ROWS, np.zeros(8, np.int64)
    convert_float16(exported, path, evaluation=evaluation, max_accuracy_drop=1.0)
    one, other = (
        {entry.key: entry.value for entry in onnx.load(file).metadata_props}["mcld_sha256"]
        for file in (exported, path)
    )
    assert one != other
    weights = max(onnx.load(path).graph.initializer, key=lambda weight: len(weight.raw_data))
    damage(path, weights.raw_data)
    with pytest.raises(ValueError, match="is damaged"):
        compare_latency(path, path, ROWS)


def test_metadata_may_be_edited_by_other_tools(exported: Path) -> None:
    model = onnx.load(exported)
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {"first": "x" * 99} | known | {"note": "of another tool"})
    onnx.save(model, exported)
    assert predict.Classifier(exported).metadata["note"] == "of another tool"

"""``python -m mcld_core export``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from mcld_core.__main__ import main

STUDENTS = "tests.export.torch_students"


def export(checkpoint: Path, out: Path, *more: str, load: str = "from_npz") -> int:
    command = ["export", "--checkpoint", str(checkpoint), "--out", str(out), *more]
    return main([*command, "--load", f"{STUDENTS}:{load}"] if load else command)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "a.npz"
    np.savez(path, weight=np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32))
    return path


def test_any_file_by_a_function_of_the_callers(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert export(checkpoint, tmp_path / "b.onnx", "--input-shape", "6") == 0
    assert "relative error" in capsys.readouterr().out
    weights = onnx.load(tmp_path / "b.onnx").graph.initializer
    weight = np.load(checkpoint)["weight"]
    assert any(np.array_equal(numpy_helper.to_array(found), weight) for found in weights)


def test_such_a_function_may_say_shape_and_metadata(checkpoint: Path, tmp_path: Path) -> None:
    assert export(checkpoint, tmp_path / "b.onnx", load="from_npz_described") == 0
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "b.onnx").metadata_props}
    assert found["teacher"] == "wide"
    assert json.loads(found["classes"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("more", "load", "text"),
    [
        ((), "from_npz", "--input-shape is needed"),
        (("--checkpoint", "no.pt"), "from_npz", "No such file or directory"),
        ((), "no_such_function", "no_such_function', which cannot be imported"),
        ((), "build", "torch_students:build needs to read a student, or (student, input sh"),
        ((), "np.shape", "got ValueError: not enough values to unpack (expected 3, got 0)"),
        ((), "", "a.npz, which is neither a .keras file nor a SavedModel folder. Load the model"),
        (("--input-shape", "6", "--tolerance", "1e-12"), "from_npz", "the tolerance is 1.0e-12"),
        (("--input-shape", "6", "--opset", "999"), "from_npz", "opset needs an int in 1 … "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    more: tuple[str, ...],
    load: str,
    text: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    assert export(checkpoint, tmp_path / "b.onnx", *more, load=load) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: export")
    assert text in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize("shape", ["a,b", "", "3,,4", "3.5"])
def test_an_input_shape_that_is_none(shape: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as error:
        export(Path("a"), Path("b"), "--input-shape", shape)
    assert error.value.code == 2
    assert f"--input-shape: invalid sizes value: {shape!r}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["t.pt", "t.onnx", "./t.pt"])
def test_the_checkpoint_is_never_overwritten(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Neither as it is called nor by another name, nor where it is an ONNX file itself."""
    monkeypatch.chdir(tmp_path)
    path = Path("t.onnx" if name == "t.onnx" else "t.pt")
    torch.save(torch.nn.Linear(6, 3).state_dict(), path)
    before = path.read_bytes()
    assert export(path, name, "--input-shape", "6") == 2
    assert f"--out needs another file than --checkpoint; got {Path(name)} for both" in (
        capsys.readouterr().err
    )
    Path("link.onnx").symlink_to(path)
    assert export(path, Path("link.onnx"), "--input-shape", "6") == 2
    assert path.read_bytes() == before

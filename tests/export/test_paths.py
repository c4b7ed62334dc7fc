"""Where a file may be written, what is replaced, and what of the metadata comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import mcld_core
from mcld_core.export import export_onnx

NAMES = ["cat, tabby", "\"dog\" 'hound'", "größer\nkleiner", "猫", "null", "3", "", "a\tb"]
NAMES += ["é", "\\"]
SHAPE = (3, 8, 8)


def student() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))


def export(path: Path, **metadata: Any) -> dict[str, str]:
    """Export and return the metadata."""
    assert export_onnx(student(), path, input_shape=SHAPE, metadata=metadata).path == path
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An ONNX file."""
    path = tmp_path_factory.mktemp("whole") / "a.onnx"
    export(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ['größer, "it\'s"\n猫.onnx', "n" * 250 + ".onnx"])
def test_any_path(name: str, tmp_path: Path) -> None:
    path = tmp_path / "one more, größer" / name
    path.parent.mkdir()
    for _ in range(2):  # the second time in the place of the first
        assert json.loads(export(path, classes=NAMES)["classes"]) == NAMES
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("folder.onnx", ".*which is there and is not an ONNX file. Remove it, or"),
        ("a.json", r"path needs a name that ends in .onnx; got .*a.json. Write .*a.onn"),
        ("weights.pt", r"path needs a name that ends in .onnx; got .*weights.pt"),
        ("a", r"path needs a name that ends in .onnx; got .*a. Write .*a.onnx"),
        ("weights.onnx", ".*which is there and is not an ONNX file. Remove it, or"),
        ("cut.onnx", ".*which is there and is not an ONNX file. Remove it, or"),
        ("link.onnx", ".*which is there and is not an ONNX file. Remove it, or"),
    ],
)
def test_a_file_of_another_kind_is_never_replaced(
    name: str, text: str, whole: bytes, tmp_path: Path
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    torch.save(student().state_dict(), tmp_path / "weights.pt")
    torch.save(student().state_dict(), tmp_path / "weights.onnx")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "weights.pt")
    (tmp_path / "cut.onnx").write_bytes(whole[:5000])
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"^export_onnx: {text}"):
        export(tmp_path / name)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_empty_file_is_replaced(tmp_path: Path) -> None:
    """As `tempfile` makes one: nothing is lost."""
    (tmp_path / "a.onnx").touch()
    export(tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").stat().st_size > 0


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """The file behind it is replaced, and its folder is the one that needs the space."""
    real, link = tmp_path / "real" / "a.onnx", tmp_path / "link.onnx"
    real.parent.mkdir()
    link.symlink_to(real)
    for _ in range(2):  # to nothing, then to a file
        export(link)
        assert link.is_symlink()
        onnx.checker.check_model(real.read_bytes())
    link.unlink()
    link.symlink_to(tmp_path / "missing" / "a.onnx")
    with pytest.raises(FileNotFoundError, match=r"there is no such folder: .*missing"):
        export(link)


def test_texts_stay_and_all_else_becomes_json(tmp_path: Path) -> None:
    texts = {"a": "2024", "b": "null", "c": '"q"', "d": "größer", "e": ""}
    values = {"f": 2024, "g": [1, 2], "h": {"mean": [0.5]}, "i": True, "classes": NAMES}
    arrays = {"j": np.float32(0.5), "k": np.arange(3), "l": torch.ones(2)}
    found = export(tmp_path / "a.onnx", **texts, **values, **arrays, none=None)
    assert {key: found[key] for key in texts} == texts
    assert {key: json.loads(found[key]) for key in values} == values
    assert [json.loads(found[key]) for key in arrays] == [0.5, [0, 1, 2], [1.0, 1.0]]
    assert "none" not in found
    assert found["mcld_version"] == mcld_core.__version__  # in a clone that is not installed, too

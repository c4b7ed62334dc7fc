"""The code of docs/guides/export.md runs, and does what the text says of it."""

from __future__ import annotations

import re
from pathlib import Path

import onnxruntime
import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "export.md"


def test_the_guides_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text = GUIDE.read_text("utf-8")
    blocks = re.findall(r"<!-- test: export -->\n```python\n(.*?)```", text, re.S)
    fences = re.findall(r"^ *(?:```|~~~) *(?:py|Py)", text, re.M)
    assert len(blocks) == len(fences), "a block of Python without the mark is not tested"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    files = {
        "linear.onnx",
        "student.onnx",
        "tagger.onnx",
        "half.onnx",
        "int8.onnx",
        "again.onnx",
        "weights.pt",
    }
    assert {entry.name for entry in tmp_path.iterdir()} == files
    tagger = onnxruntime.InferenceSession("tagger.onnx")
    assert [entry.shape for entry in tagger.get_inputs()] == [["batch", "time"]] * 2
    assert tagger.get_outputs()[0].shape == ["batch", "time", 5]
    printed = capsys.readouterr().out
    assert "latency ratio" in printed
    assert "relative error" in printed


def test_the_readmes_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    readme = (GUIDE.parents[2] / "README.md").read_text("utf-8")
    (block,) = re.findall(r"<!-- test: export -->\n```python\n(.*?)```", readme, re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["student.onnx"]

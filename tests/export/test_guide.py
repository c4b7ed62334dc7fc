"""The code of docs/guides/export.md runs, and does what the text says of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "export.md"


def blocks(page: Path, mark: str) -> list[str]:
    text = page.read_text("utf-8")
    return re.findall(rf"<!-- test: {mark} -->\n```python\n(.*?)```", text, re.S)


def test_no_block_is_without_a_test() -> None:
    fences = re.findall(r"^ *(?:```|~~~) *(?:py|Py)", GUIDE.read_text("utf-8"), re.M)
    assert len(blocks(GUIDE, "export")) + len(blocks(GUIDE, "litert")) == len(fences)


def test_the_guides_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(GUIDE, "export"):
        exec(compile(block, str(GUIDE), "exec"), names)
    files = {"linear", "student", "tagger", "half", "folded", "int8", "again"}
    found = {entry.name for entry in tmp_path.iterdir()}
    assert found == {f"{name}.onnx" for name in files} | {"frog.png", "weights.pt"}
    tagger = onnxruntime.InferenceSession("tagger.onnx")
    assert [entry.shape for entry in tagger.get_inputs()] == [["batch", "time"]] * 2
    assert tagger.get_outputs()[0].shape == ["batch", "time", 5]
    printed = capsys.readouterr().out
    assert "relative error" in printed
    assert len(re.findall(r"^(?:cat|dog|frog) -?\d", printed, re.M)) == 3
    sizes = re.findall(
        r"^(?:student|half|int8).onnx: \d+ bytes, accuracy ([\d.]+), ", printed, re.M
    )
    assert len(sizes) == 3
    assert min(map(float, sizes)) > 0.8


def test_the_guides_code_for_phones(tmp_path: Path) -> None:
    """In a process of its own: Keras on TensorFlow."""
    (block,) = blocks(GUIDE, "litert")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("KERAS_BACKEND", None)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pattern = r"(\w+).tflite: (\d+) bytes, error (\S+), the same class in (\d+)%"
    whole, phone = re.findall(pattern, done.stdout)
    assert (whole[0], phone[0]) == ("student", "phone")
    assert int(phone[1]) < 0.5 * int(whole[1])
    assert float(whole[2]) < 1e-5
    assert float(phone[2]) < 0.2
    assert int(phone[3]) >= 80
    assert {entry.name for entry in tmp_path.iterdir()} == {"student.tflite", "phone.tflite"}


def test_the_readmes_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (block,) = blocks(GUIDE.parents[2] / "README.md", "export")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["student.onnx"]

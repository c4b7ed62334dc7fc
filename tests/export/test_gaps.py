"""The guide's table of known gaps is the one that its script makes, of findings that still hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import export_gaps
from mcld_core.export import export_onnx

FOUND = json.loads((export_gaps.RESULTS / "export_gaps.json").read_text("utf-8"))["findings"]


def test_the_guide_shows_the_committed_findings() -> None:
    page = export_gaps.GUIDE.read_text("utf-8")
    made = export_gaps.table(FOUND)
    assert page == export_gaps.insert(page, made)
    assert made in page


def test_each_gap_has_a_way_round() -> None:
    assert list(FOUND) == list(export_gaps.FRAMEWORKS)
    layers = [name for layers in FOUND.values() for name in layers]
    assert set(layers) == set(export_gaps.WAYS)
    assert "**no**" in export_gaps.table(FOUND)


@pytest.mark.filterwarnings("ignore")  # torch's own deprecations
@pytest.mark.parametrize("name", ["GRU", "branch on values", "batch statistics", "scripted module"])
def test_the_findings_of_torch(name: str, tmp_path: Path) -> None:
    student, arguments = export_gaps.torch_cases()[name]()
    if FOUND["torch"][name]:
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            export_onnx(student, tmp_path / "a.onnx", **arguments)
    else:
        export_onnx(student, tmp_path / "a.onnx", **arguments)

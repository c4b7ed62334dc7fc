"""The accuracy benchmark: its file, and that choices see the validation split only."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES

SMALL = ["--teacher", "mlp-16", "--teacher-epochs", "3", "--student", "mlp-8", "--epochs", "2"]


def test_the_file_says_what_was_run_and_what_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES.parent))
    accuracy = importlib.import_module("benchmarks.accuracy")
    monkeypatch.setitem(accuracy.PARTS, "comparison", accuracy.COMPARISON[:1])
    ablation = [row for row in accuracy.ABLATION if row.name in ("no ramp", "bank of 512 rows")]
    monkeypatch.setitem(accuracy.PARTS, "ablation", ablation)
    seeds = ["--seeds", "0", "1", "--lr-grid", "1e-6", "0.1", "--results", str(tmp_path)]
    assert accuracy.main([*SMALL, *seeds]) == 0
    text = (tmp_path / "accuracy_digits.md").read_text()
    assert "`python benchmarks/accuracy.py --teacher mlp-16" in text
    assert re.search(r"commit [0-9a-f]{7}", text) or "commit unknown" in text
    rows = [line for line in text.splitlines() if re.match(r"\| (CE|no ramp|bank)", line)]
    assert len(rows) == 3
    for row in rows:  # a useless rate is not chosen, 0.1 or beyond is; two seeds have a spread
        assert re.fullmatch(
            r"\| .* \| 0\.[1248] \| [\d.]+ \| [\d.]+ ± [\d.]+ \| [\d.]+ ± [\d.]+ \|", row
        )

"""The self-distillation benchmark: every method learns, and its table and file say how well."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES


def test_every_method_learns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES.parent))
    benchmark = importlib.import_module("benchmarks.self_distillation")
    assert benchmark.main(["--quick", "--json", str(tmp_path / "numbers.json")]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "numbers.json").read_text())["300"]["test"]
    assert set(found) == {"0", "1"}
    for scores in found.values():
        assert len(scores) == 2 * 6 + 2  # six students with their averages, two ensembles
        for name, score in scores.items():
            assert f"| {name.split('|')[0]} |" in printed
            assert score > 70, name  # an even guess has 10


def test_the_rate_is_chosen_on_the_validation_split() -> None:
    benchmark = importlib.import_module("benchmarks.self_distillation")
    train, validation, _ = benchmark.read(128)
    rates, scores = benchmark.choose_rates(train, validation, [100], epochs=8)
    for method, rate in rates.items():
        assert scores[method][rate] == max(scores[method].values())

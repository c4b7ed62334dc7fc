"""The noisy-teacher example: its quick command, its corruption, its choices."""

from __future__ import annotations

import json
from pathlib import Path

import noisy_teacher
import pytest
import torch


def test_the_quick_command_compares_every_method_and_writes_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "digits", "--quick", "--epochs", "1", "--teacher-epochs", "1"]
    assert noisy_teacher.main([*arguments, "--seeds", "0", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for name in noisy_teacher.METHODS.values():
        assert f"| {name} |" in printed
    rows = json.loads((tmp_path / "numbers.json").read_text())["rows"]
    assert {row["seed"] for row in rows} == {0, 1}
    assert {row["teacher"] for row in rows} >= set(noisy_teacher.TEACHERS)
    for row in rows:  # one epoch of digits; chance: 10 %
        assert 0.65 < row["accuracy"] < 1.0, row
    repaired = [r["accuracy"] for r in rows if r["method"] == "repair" and r["teacher"] == "60 %"]
    teachers = [r["accuracy"] for r in rows if r["method"] == "teacher" and r["teacher"] == "60 %"]
    assert min(repaired) > max(teachers)
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "| by row |" in (tmp_path / "table.md").read_text()


def test_the_rate_is_chosen_by_the_validation_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--tune", "--lr-grid", "1e-9", "0.1", "--methods", "ce", "mcld"]
    assert noisy_teacher.main([*arguments, "--out", str(tmp_path)]) == 0
    assert "validation, mcld" in capsys.readouterr().out
    rates = json.loads((tmp_path / "numbers.json").read_text())["rates"]
    assert all(1e-3 < rate <= 0.4 for rate in rates.values())


def test_corrupted_labels_are_of_another_class_and_as_many_as_asked_for() -> None:
    labels = torch.arange(10).repeat(1000)
    for percent in (0, 40):
        wrong = noisy_teacher.corrupted(labels, percent, 10, seed=3)
        assert abs(float((wrong != labels).float().mean()) - percent / 100) < 0.02
        assert wrong.min() >= 0
        assert wrong.max() <= 9

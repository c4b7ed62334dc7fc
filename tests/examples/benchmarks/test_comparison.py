"""Rows that are compared: the same trials for each, a run that goes on, the table, the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import comparison
from benchmarks.compare import BOUNDS, Table
from benchmarks.data import Pool, split
from benchmarks.fit import Rows
from benchmarks.pages import numbers

ROOT = Path(__file__).parents[3]
ROWS = ["CE", "CE + KD", "MCLD + CE"]
SMALL = ["--trials", "3", "--rows", *ROWS, "--epochs", "1", "--seeds", "0", "1"]


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits with a small teacher of one epoch."""
    small = comparison.SETUPS["digits"]._replace(teacher=("mlp", 8), teacher_epochs=1)
    monkeypatch.setitem(comparison.SETUPS, "digits", small)


@pytest.mark.usefixtures("setup")
def test_a_comparison_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, trained = Table.train, []

    def counted(table: Table, *given: object) -> dict[str, float]:
        if len(trained) == 7:  # so it stops among the tests, too
            raise KeyboardInterrupt
        trained.append(given)
        return plain(table, *given)

    monkeypatch.setattr(Table, "train", counted)
    every: list[object] = []
    while True:
        try:
            assert comparison.main([*SMALL, "--out", str(tmp_path)]) == 0
            break
        except KeyboardInterrupt:
            every, trained[:] = every + trained, []
    every += trained
    trained.clear()
    assert len(every) == len(ROWS) * (3 * 2 + 2)  # trials by two seeds, two tests
    assert len({str(given) for given in every}) == len(every)
    whole = tmp_path / "whole"
    monkeypatch.setattr(Table, "train", plain)
    assert comparison.main([*SMALL, "--out", str(whole)]) == 0
    found = [json.loads((folder / "results.json").read_text()) for folder in (tmp_path, whole)]
    assert found[0] == found[1]
    for row in ROWS:
        chosen = found[0]["chosen"][f"digits|{row}"]
        assert len(chosen["trials"]) == 3
        assert chosen["validation"] == max(score for _, score in chosen["trials"])
    page = (tmp_path / "results.md").read_text("utf-8")
    assert all(f"| {row} | lr " in page for row in ROWS)


def test_every_row_searches_its_weight_within_the_same_bounds() -> None:
    beside = [row for row in comparison.EQUAL if row not in ("CE", "MCLD")]
    for row in beside:
        text = comparison.EQUAL[row]
        assert "{w}" in text
        assert len([name for name in BOUNDS if f"{{{name}}}" in text]) == 2, text
    assert BOUNDS["w"][:2] == (0.05, 2.0)


def test_trials_without_optuna_fail_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "optuna.py").write_text("raise ImportError('none')")
    words = [sys.executable, "-m", "benchmarks.comparison", *SMALL, "--out", str(tmp_path / "out")]
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    env = os.environ | {"PYTHONPATH": path}
    found = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.strip() == "--trials needs Optuna: pip install optuna"
    assert not (tmp_path / "out").exists()


def test_a_split_holds_each_row_once_and_another_seed_draws_another() -> None:
    pool = Pool(Rows(torch.arange(50.0)[:, None], torch.arange(50)), None)
    sizes = {"validation": 10, "test": 15, "train": 20}
    found = split(pool, 0, sizes)
    assert {part: len(rows.y) for part, rows in found.items()} == sizes
    seen = torch.cat([rows.y for rows in found.values()]).tolist()
    assert len(set(seen)) == 45
    assert split(pool, 1, sizes)["test"].y.tolist() != found["test"].y.tolist()
    given = Rows(torch.zeros(3, 1), torch.zeros(3))
    parts = split(Pool(pool.train, given), 0, {"validation": 10})
    assert parts["test"] is given
    assert len(parts["train"].y) == 40


def test_a_difference_has_the_interval_of_students_t() -> None:
    one, other = {0: 5.0, 1: 7.0, 2: 9.0, 3: 0.0}, {0: 4.0, 1: 5.0, 2: 6.0}
    half = 4.303 * 1.0 / 3**0.5
    assert numbers.difference(one, other) == f"+2.00 ({2 - half:+.2f} to {2 + half:+.2f})"
    assert numbers.difference({0: 1.0}, {0: 3.0}) == "-2.00"


def test_the_demo_prints_the_committed_numbers(tmp_path: Path) -> None:
    """The first seed's rows, trained anew: the accuracies that demo_digits.json has."""
    committed = json.loads((comparison.RESULTS / "demo_digits.json").read_text())["tests"]
    study = comparison.study_of(comparison.parse([]))
    table = Table(tmp_path / "results.json", "digits", study, trials=0)
    for row in ("CE", "MCLD + CE"):
        found = table.train(row, 0, table.choose(row)["best"], "test")
        assert found["accuracy"] == pytest.approx(committed[f"digits|0|{row}"]["accuracy"], abs=0.5)

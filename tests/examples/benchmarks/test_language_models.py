"""The benchmark of losses for language models: scores by hand, a page, and a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import language_models
from benchmarks.pages import language_models as pages


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(60)]
    for part in ("train", "test"):
        rows = [f"group\t{' '.join(rng.choice(words, 40))}" for _ in range(30)]
        lines = ["class\ttext", "discrete\tstring", "class\t", *rows]
        (folder / f"20newsgroups-{part}.tab").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def test_scores_by_hand() -> None:
    """Two windows of one token: right and in agreement, wrong and not in agreement."""
    student = torch.tensor([[[0.5, 0.25, 0.25]], [[0.25, 0.5, 0.25]]]).log()
    teacher = torch.tensor([[[0.5, 0.25, 0.25]], [[0.5, 0.25, 0.25]]]).log()
    found = language_models.scores(student, teacher, torch.tensor([[0], [0]]))
    assert found["perplexity"] == pytest.approx(np.sqrt(2 * 4))
    assert found["next token %"] == 50.0
    assert found["agreement %"] == 50.0
    expected = 0.5 * (0.5 * np.log(2) + 0.25 * np.log(0.5))  # of the second window
    assert found["KL from the teacher"] == pytest.approx(expected)


def test_a_token_sees_those_before_it_alone() -> None:
    torch.manual_seed(0)
    model = language_models.Transformer(vocabulary=20, width=32, layers=2, length=6).eval()
    ids = torch.randint(20, (1, 6))
    changed = ids.clone()
    changed[0, 3] = (ids[0, 3] + 1) % 20
    gap = (model(ids) - model(changed)).abs().amax(2)[0]
    assert (gap[:3] < 1e-6).all()
    assert (gap[3:] > 1e-4).all()


def test_rates_are_chosen_by_the_validation_split_and_a_run_goes_on(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--quick", "--data-dir", str(texts), "--work", str(tmp_path), "--out", str(tmp_path)]
    assert language_models.main([*command, "--rows", "CE", "MCLD", "--seeds", "0"]) == 0
    path = tmp_path / "language_models.json"
    first = json.loads(path.read_text("utf-8"))
    for row in ("CE", "MCLD"):
        tried = {lr: first[f"100|{row}|{lr}"]["perplexity"] for lr in language_models.RATES}
        assert first[f"0|{row}"]["lr"] == min(tried, key=tried.__getitem__)
    monkeypatch.setattr(language_models, "write_atomically", None)  # the teacher is there
    rows = list(language_models.ROWS)
    assert language_models.main([*command, "--seeds", "0", "1"]) == 0
    again = json.loads(path.read_text("utf-8"))
    assert {key: again[key] for key in first} == first
    assert {f"{seed}|{row}" for seed in (0, 1) for row in rows} < set(again)
    page = (tmp_path / "language_models.md").read_text("utf-8")
    for row in rows:
        assert page.count(f"\n| {row} |") == 3  # scores, differences, rates


def test_a_row_that_is_not_done_is_left_out() -> None:
    scores = dict.fromkeys(pages.COLUMNS, 1.0) | {"lr": 0.1}
    record = {"about": {"weights": [2, 1], "sizes": language_models.QUICK._asdict()}}
    record |= {"teacher": scores, "100|CE|0.1": scores, "0|CE": scores, "100|KD|0.1": scores}
    page = pages.page(record, ["CE", "KD"], [0.1])
    assert "| CE | 0.1 | 1 | 1.00 |" in page
    assert "| KD |" not in page

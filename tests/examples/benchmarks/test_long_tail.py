"""The benchmarks of uneven classes: sizes, scores, pages, and a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import long_tail, target_mask
from benchmarks.pages import long_tail as pages
from examples.recipes.comparing import paired
from mcld_core import category_wise, dkd_loss, instance_wise, kd_loss, sample_wise


def test_class_sizes_fall_and_no_row_is_in_two_splits() -> None:
    pool, test = long_tail.read("digits", Path())
    task = long_tail.uneven("digits", 50, 0, pool, test)
    sizes = sorted(task.counts.tolist(), reverse=True)
    expected = [round(95 * 50 ** (-rank / 9)) for rank in range(10)]
    assert sizes == expected
    assert task.validation.y.bincount().tolist() == [30] * 10
    assert task.train.y.bincount(minlength=10).tolist() == task.counts.tolist()
    order = {seed: long_tail.uneven("digits", 50, seed, pool, test).counts for seed in (0, 1)}
    assert order[0].tolist() != order[1].tolist()
    numbered = long_tail.Split(torch.arange(len(pool.y))[:, None], pool.y)
    rows = long_tail.uneven("digits", 50, 0, numbered, test)
    assert not set(rows.train.x[:, 0].tolist()) & set(rows.validation.x[:, 0].tolist())


def test_scores_by_hand() -> None:
    """Three classes of 6, 3 and 1 training rows; accuracies 1, 1/2 and 0."""
    y = torch.tensor([0, 0, 1, 1, 2])
    guess = torch.tensor([0, 0, 1, 0, 1])
    found = long_tail.scores(50.0 * torch.eye(3)[guess], y, torch.tensor([6, 3, 1]))
    assert (found["head"], found["middle"], found["tail"]) == (100.0, 50.0, 0.0)
    assert found["balanced"] == 50.0
    assert found["uneven"] == 75.0
    assert found["ece"] == pytest.approx(50.0)  # always certain, right in half of the cases
    assert found["uneven_ece"] == pytest.approx(25.0)


def test_a_difference_has_the_interval_of_students_t() -> None:
    one, other = {0: 5.0, 1: 7.0, 2: 9.0, 3: 0.0}, {0: 4.0, 1: 5.0, 2: 6.0}
    half = 4.303 * 1.0 / np.sqrt(3)
    assert paired.difference(one, other) == f"+2.00 ({2 - half:+.2f} to {2 + half:+.2f})"


@pytest.mark.parametrize(
    ("row", "values", "expected"),
    [
        ("CE", {}, "ce"),
        ("KD", {"temperature": 2.0}, "kd"),
        ("CE + KD", {"temperature": 2.0}, "ce + kd"),
        ("CE + DKD", {"beta": 3.0}, "ce + dkd / 4"),
        ("CE + sample-wise", {"weight_sample": 0.5}, "ce + sample / 2"),
        ("MCLD", {"weight_sample": 0.5}, "contrasts + sample / 2"),
        ("MCLD + CE, prior, adjusted", {"weight_sample": 0.5}, "ce + contrasts + sample / 2"),
    ],
)
def test_a_row_is_the_loss_that_it_names(row: str, values: dict[str, float], expected: str) -> None:
    rows = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    s, t, y = rows[0], rows[1], torch.tensor([0, 0, 0, 1, 1, 2])
    split = long_tail.Split(s, y)
    task = long_tail.Task(split, split, split, y.bincount())
    found = long_tail.loss_of(row, values, t, task)(s, t, y, 0.3)
    s = s + (y.bincount() / 6).log() if "adjusted" in row else s
    prior = y.bincount() if "prior" in row else None
    instance, category = (
        term(s, t, y, class_prior=prior) for term in (instance_wise, category_wise)
    )
    parts = {
        "ce": torch.nn.functional.cross_entropy(s, y),
        "kd": kd_loss(s, t, temperature=2.0),
        "dkd": dkd_loss(s, t, y, alpha=1.0, beta=3.0, temperature=4.0),
        "contrasts": instance + 0.3 * category,
        "sample": sample_wise(s, t, y),
    }
    torch.testing.assert_close(found, eval(expected, parts))


def test_a_run_goes_on_and_every_row_has_as_many_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_tail, "STEPS", 2)
    monkeypatch.setattr(long_tail, "TRIALS", 3)
    command = ["--only", "digits", "--ratios", "50", "--seeds", "0", "--out", str(tmp_path)]
    trained = []
    train = long_tail.Run.train

    def counted(run: long_tail.Run, *arguments: object) -> dict[str, float]:
        if len(trained) == 35:
            raise KeyboardInterrupt
        trained.append(str(arguments))
        return train(run, *arguments)

    monkeypatch.setattr(long_tail.Run, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        long_tail.main(command)
    first = list(trained)
    trained.clear()
    while True:
        try:
            assert long_tail.main(command) == 0
            break
        except KeyboardInterrupt:
            first, trained[:] = first + trained, []
    every = first + trained
    assert len(every) == len(set(every)) == (3 * 2 + 1) * len(long_tail.ROWS)
    record = json.loads((tmp_path / "long_tail.json").read_text("utf-8"))
    for row in long_tail.ROWS:
        chosen = record["chosen"][f"digits|50|{row}"]
        assert len(chosen["trials"]) == 3
        assert len(chosen["best"]) == 1 + (not row.startswith("CE") or "+" in row)
        scores = [
            [score for key, score in record["trials"].items() if f"|{seed}|{row}|" in key]
            for seed in long_tail.TUNE_SEEDS
        ]
        means = [sum(pair) / 2 for pair in zip(*scores, strict=True)]
        assert max(means) == pytest.approx(100 * chosen["validation"])
    cell = pages.values(record, "digits", 50, "CE", "balanced")
    assert cell == {0: record["tests"]["digits|50|0|CE"]["balanced"]}
    page = (tmp_path / "long_tail.md").read_text("utf-8")
    assert f"| CE | lr {record['chosen']['digits|50|CE']['best']['lr']:.3g} | " in page


def test_the_own_row_as_often_as_the_mask_took_leaves_no_margin(tmp_path: Path) -> None:
    """With one-hot keys and the batch's counts it is the cross-entropy and log n."""
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    counts, s = y.bincount(), torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    found = target_mask.own(s, 1000.0 * torch.eye(3)[y], y, counts, 1.0)
    expected = torch.nn.functional.cross_entropy(s, y) + counts[y].log().mean()
    torch.testing.assert_close(found, expected)
    assert target_mask.main(["--seeds", "2", "--steps", "2", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "target_mask.md").read_text("utf-8")
    assert all(f"| {name} | " in page for name in target_mask.LOSSES)

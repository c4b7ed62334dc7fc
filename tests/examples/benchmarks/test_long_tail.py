"""The benchmark of uneven classes: sizes, scores and rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import long_tail
from benchmarks.compare import Task
from benchmarks.fit import Rows
from mcld_core import adjust_logits, category_wise, instance_wise, kd_loss, sample_wise


def test_class_sizes_fall_and_no_row_is_in_two_splits() -> None:
    pool, test = long_tail.read("digits", Path())
    assert len(test.y) == 449
    train, validation, counts = long_tail.uneven("digits", 50, 0, pool)
    expected = [round(95 * 50 ** (-rank / 9)) for rank in range(10)]
    assert sorted(counts.tolist(), reverse=True) == expected
    assert validation.y.bincount().tolist() == [30] * 10
    assert train.y.bincount(minlength=10).tolist() == counts.tolist()
    assert long_tail.uneven("digits", 50, 1, pool)[2].tolist() != counts.tolist()
    numbered = Rows(torch.arange(len(pool.y))[:, None], pool.y)
    rows = long_tail.uneven("digits", 50, 0, numbered)
    assert not set(rows[0].x[:, 0].tolist()) & set(rows[1].x[:, 0].tolist())


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


S, T = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 0, 0, 1, 1, 2])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("CE + KD, adjusted", "ce + kd"),
        ("MCLD, prior", "contrasts + sample / 2"),
        ("MCLD + CE, prior, adjusted", "ce + contrasts + sample / 2"),
    ],
)
def test_a_row_is_the_loss_that_it_names(row: str, expected: str) -> None:
    text = long_tail.KINDS[row.split(", ")[0]].format(t=2.0, b=3.0, s=0.5)
    task = Task(Rows(S, Y, T), torch.nn.Identity, lambda *_: {}, {})
    found = long_tail.row_loss(row, text, task)(S, T, Y, 0.3)
    s = adjust_logits(S, Y.bincount()) if "adjusted" in row else S
    prior = Y.bincount() if "prior" in row else None
    instance, category = (
        term(s, T, Y, class_prior=prior) for term in (instance_wise, category_wise)
    )
    parts = {
        "ce": torch.nn.functional.cross_entropy(s, Y),
        "kd": kd_loss(s, T, temperature=2.0),
        "contrasts": instance + 0.3 * category,
        "sample": sample_wise(s, T, Y),
    }
    torch.testing.assert_close(found, eval(expected, parts))


def test_every_row_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_tail, "STEPS", 2)
    words = ["--only", "digits", "--seeds", "0", "--trials", "0", "--out", str(tmp_path)]
    assert long_tail.main(words) == 0
    tests = json.loads((tmp_path / "long_tail.json").read_text("utf-8"))["tests"]
    for row in long_tail.ROWS:
        assert {"balanced", "posthoc_balanced", "tail"} <= set(tests[f"digits|50|0|{row}"])


def test_scores_after_the_training_are_those_of_logits_less_the_prior() -> None:
    """A student that knows the frequencies, and a little more of the rarest class."""
    pool, _ = long_tail.read("digits", Path())
    counts = long_tail.uneven("digits", 50, 0, pool)[2]
    says = torch.nn.Linear(64, 10)
    with torch.no_grad():
        says.weight.zero_()
        says.bias.copy_((counts / counts.sum()).log())
        says.bias[counts.argmin()] += 0.5  # above all others once the prior is gone
    found = long_tail.task("digits", 50, Path(), 0).score(says, "test")
    assert (found["tail"], found["head"]) == (0.0, pytest.approx(100 / 3, abs=0.01))
    assert found["posthoc_tail"] == pytest.approx(100 / 3, abs=0.01)

"""The benchmark on Tiny-ImageNet: pictures halved, five trials a row, and a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tiny_imagenet import data, trainings
from benchmarks.tiny_imagenet.table import page
from mcld_core import dkd_loss


def task(rows: int = 256) -> data.Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (rows, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = data.Split(x, torch.arange(rows) % 10)
    teacher = torch.randn(rows, 10, generator=generator)
    return data.Task(split, split, split, teacher, 50.0)


def test_halved_pictures_are_means_of_four_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    small = data.halved(images)
    assert small.shape == (2, 2, 3, 3)
    for row, down, across, channel in np.ndindex(small.shape):
        four = images[row, 2 * down : 2 * down + 2, 2 * across : 2 * across + 2, channel]
        assert abs(float(small[row, down, across, channel]) - four.mean()) <= 0.5


def test_five_trials_a_row_then_fresh_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peak is at the rate 0.9 and the weight 1; the record's trials are not trained again."""
    trained = []

    def score(row: str, lr: float, constant: float) -> float:
        trained.append((row, round(lr, 4), constant))
        return 10 + lr + constant

    run = trainings.Run(task(), tmp_path / "record.json")
    monkeypatch.setattr(
        trainings,
        "train",
        lambda task, loss, lr, *_: (loss, lr),
    )
    monkeypatch.setattr(trainings, "accuracy", lambda model, split: score("", model[1], 0.0))
    assert run.tune("CE") == (pytest.approx(0.9 * 3**0.5), 0.0)
    assert [lr for _, lr, _ in trained] == [0.1, 0.3, 0.9, 1.5588, 0.5196]
    trained.clear()
    assert run.tune("MCLD")[0] == pytest.approx(0.9)
    assert len(trained) == 5
    again = trainings.Run(task(), tmp_path / "record.json")
    trained.clear()
    assert again.tune("MCLD")[0] == pytest.approx(0.9)
    assert not trained
    record = json.loads((tmp_path / "record.json").read_text())
    assert {key.split("|")[2] for key in record["trials"] if key.startswith("MCLD|")} == {
        "0.25", "0.1", "1"
    }  # fmt: skip


@pytest.mark.parametrize("row", trainings.ROWS)
def test_every_row_trains(row: str) -> None:
    first = (trainings.ROWS[row].constants or (0.0,))[0]
    model = trainings.train(task(), trainings.ROWS[row].loss(first), 0.1, 0, epochs=1)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert 0 <= trainings.accuracy(model, task().test) <= 100


def test_without_contrasts_and_with_beta_one_it_is_dkd_beside_ce() -> None:
    """What the table says of CE + sample-wise: MCLD without its contrasts."""
    s, t = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(8)
    found = trainings.ROWS["CE + sample-wise"].loss(0.5)(s, t, y, 0.0)
    wanted = torch.nn.functional.cross_entropy(s, y) + 0.5 * dkd_loss(
        s, t, y, alpha=1.0, beta=1.0, temperature=4.0
    )
    torch.testing.assert_close(found, wanted)


def test_the_page_has_differences_to_the_best_baseline() -> None:
    values = {"CE": (20.0, 21.0, 22.0), "KD": (19.0, 20.0, 21.0)}
    values["MCLD + CE, no ramp"] = (22.0, 23.0, 25.0)
    record = {
        "settings": {"teacher": "lite0", "train": 40400, "validation": 10100,
                     "test": 10100, "epochs": 6, "trial_epochs": 3, "batch": 128, "width": 2,
                     "parameters": 440810, "teacher_test_accuracy": 50.6},
        "trials": {f"{row}|0.3|2|0": 15.0 for row in values},
        "tests": {f"{row}|0.3|2|{seed}": value for row, found in values.items()
                  for seed, value in enumerate(found, 1)},
    }  # fmt: skip
    text = page(record, tuple(trainings.ROWS), {"KD|0.9|2|0": 16.0})
    assert "| KD | 0.9 | 2 | 16.00 |" in text
    assert "| CE | 0.3 | – | 15.00 | 3 | 21.00 ± 1.00 | – |" in text
    assert "| KD | 0.3 | 2 | 15.00 | 3 | 20.00 ± 1.00 | -1.00 (-1.00 to -1.00) |" in text
    half = 4.303 / 3
    assert f"+2.33 ({7 / 3 - half:+.2f} to {7 / 3 + half:+.2f})" in text
    assert "a standard error of 0.42;" in text
    assert "--data-dir IMagenet --width 2\n" in text

"""The choice of the learning rates: beyond the grid, and once a run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from recipes import comparison
from recipes.comparison import Trained
from recipes.logs import Diverged
from recipes.options import build_parser, parse_options
from recipes.readers import DataError

BEST = {"ce": 0.03, "kd": 0.2, "mcld": 0.004}


class Trainer:
    """Validates best at a rate of its own by method; diverges from 1 on; counts the trials."""

    speaks = True

    def __init__(self) -> None:
        self.trials: list[tuple[str, int, float]] = []

    def train(
        self, method: str, seed: int, lr: float, folder: Path | None, teacher: Trained | None
    ) -> Trained:
        assert folder is None
        self.trials.append((method, seed, lr))
        if lr >= 1:
            raise Diverged("the loss is nan")
        score = 0.0
        if method != "teacher":
            assert teacher is not None
            score = 0.9 - 0.01 * seed - 0.1 * abs(math.log(lr / BEST[method]))
        return Trained(method, [{"validation_accuracy": score}], 1, lambda: None)

    def untrained_logits(self, seed: int) -> None:
        raise AssertionError


def tune(trainer: Trainer, out: Path, *arguments: str) -> dict[str, float]:
    argv = ["--tune-lr", "--tune-seeds", "5", "6", "--lr-grid", "0.01", "0.03", "0.1"]
    options = parse_options(build_parser("test"), [*argv, "--out", str(out), *arguments])
    return comparison.tune(trainer, options)


def test_rates_beyond_an_edge_of_the_grid_that_wins_are_tried(tmp_path: Path) -> None:
    trainer = Trainer()
    chosen = tune(trainer, tmp_path, "--methods", "ce", "kd", "mcld")
    assert chosen == {"ce": 0.03, "kd": 0.2, "mcld": 0.005}
    record = json.loads((tmp_path / "tuning.json").read_text())
    assert record["chosen"] == chosen
    tried = {method: sorted(map(float, rates)) for method, rates in record["validation"].items()}
    assert tried["ce"] == [0.01, 0.03, 0.1]
    assert tried["kd"] == [0.01, 0.03, 0.1, 0.2, 0.4]
    assert tried["mcld"] == [0.0025, 0.005, 0.01, 0.03, 0.1]
    assert record["validation"]["ce"]["0.03"] == pytest.approx(0.9 - 0.055)  # of both seeds
    teachers = [seed for method, seed, _ in trainer.trials if method == "teacher"]
    assert teachers == [5, 6]


def test_a_rate_that_diverges_is_never_the_best(tmp_path: Path) -> None:
    chosen = tune(Trainer(), tmp_path, "--methods", "kd", "--lr-grid", "0.1", "2", "4")
    assert chosen == {"kd": 0.1}


def test_a_resumed_run_keeps_its_rates_and_tries_only_new_methods(tmp_path: Path) -> None:
    first, resumed, added = Trainer(), Trainer(), Trainer()
    chosen = tune(first, tmp_path, "--methods", "ce")
    assert tune(resumed, tmp_path, "--methods", "ce", "--resume", "--seeds", "3") == chosen
    assert not resumed.trials
    assert tune(added, tmp_path, "--methods", "kd", "ce", "--resume") == chosen | {"kd": 0.2}
    assert {method for method, *_ in added.trials} == {"teacher", "kd"}
    again = Trainer()
    assert tune(again, tmp_path, "--methods", "ce") == chosen
    assert len(again.trials) == len(first.trials)  # not resumed: tried anew


def test_a_stopped_choice_goes_on_with_the_methods_that_lack_one(tmp_path: Path) -> None:
    class Stopping(Trainer):
        def train(self, method: str, *rest: object) -> Trained:
            if method == "mcld":
                raise KeyboardInterrupt
            return super().train(method, *rest)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        tune(Stopping(), tmp_path, "--methods", "ce", "mcld")
    trainer = Trainer()
    chosen = tune(trainer, tmp_path, "--methods", "ce", "mcld", "--resume")
    assert chosen == {"ce": 0.03, "mcld": 0.005}
    assert "ce" not in {method for method, *_ in trainer.trials}


def test_rates_that_were_chosen_with_other_options_are_refused(tmp_path: Path) -> None:
    tune(Trainer(), tmp_path, "--methods", "ce")
    trainer = Trainer()
    with pytest.raises(DataError, match=r"other options: epochs was 40 and is 7\. .*another --out"):
        tune(trainer, tmp_path, "--methods", "ce", "--resume", "--epochs", "7")
    (tmp_path / "tuning.json").write_text('{"chosen": {"ce": 0.1}}')
    with pytest.raises(DataError, match=r"tuning.json is damaged \('options'\); delete it"):
        tune(trainer, tmp_path, "--methods", "ce", "--resume")
    assert not trainer.trials

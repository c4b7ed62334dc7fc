"""Rows of a table, tuned alike and tested with the same seeds.

A row is a loss (`benchmarks.losses`) whose text may leave numbers open: ``kd:temperature={t},
weight={w}``. Each row has as many trials: Optuna searches its rate and its open numbers, within
the same bounds for every row, by the validation score; the best is tested with fresh seeds. Every
run is written down as it ends, so the same command goes on after a kill.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

from torch import nn

from benchmarks.fit import InMemory, Rows, fit
from benchmarks.losses import Loss, loss_of
from benchmarks.record import read_json, write_json

BOUNDS = {
    "w": (0.05, 2.0, 0.5),  # the weight beside the cross-entropy
    "s": (0.05, 1.0, 0.25),  # of the sample-wise term within MCLD
    "t": (1.0, 8.0, 4.0),  # a temperature
    "b": (0.5, 8.0, 2.0),  # beta of DKD and RLD
    "g": (0.5, 4.0, 1.5),  # gamma of NKD
    "p": (0.1, 1.0, 0.2),  # the power of WTTM
}
"""An open number → lowest and highest, and its value in the first trial."""
SPAN = 8.0
"""Rates are searched from the first one over this to the first one times this."""

Values = dict[str, float]


class Task(NamedTuple):
    """What the trainings of a seed share."""

    train: Rows
    """With the teacher's logits."""
    build: Callable[[], nn.Module]
    score: Callable[[nn.Module, str], dict[str, float]]
    """(student, "validation" or "test") → scores; the first one is what trials choose by."""
    teacher: dict[str, float]
    """Its scores of the test rows."""


class Table:
    """The runs of one table in a file of three parts: "chosen", "trials" and "tests".

    Args:
        path: of the file.
        name: what the names of its runs begin with, for a file of several tables.
        rows: name → the loss's text.
        task: of a seed; those of ``tune_seeds`` and the last other one are kept.
        lr: of each row's first trial, and of rows that are not tuned.
        trials: a row; 0 takes the first values.
        options: of `fit`, and "batch".
        loss: (row, text, task) → loss, where a row is more than its text.
        rates: of rows that are not tuned and have another one than ``lr``.

    Raises:
        SystemExit: trials are asked for and Optuna is not installed.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        rows: Mapping[str, str],
        task: Callable[[int], Task],
        *,
        lr: float,
        trials: int,
        options: Mapping[str, Any],
        tune_seeds: Sequence[int] = (100, 101),
        loss: Callable[[str, str, Task], Loss] = lambda row, text, task: loss_of(text),
        rates: Mapping[str, float] = {},
    ) -> None:
        if trials:
            try:
                import optuna
            except ImportError:
                raise SystemExit("--trials needs Optuna: pip install optuna") from None
            optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path, self.name, self.rows, self.make, self.loss = path, name, rows, task, loss
        self.lr, self.trials, self.tune_seeds, self.rates = lr, trials, tune_seeds, rates
        self.options = dict(options)
        self.batch = self.options.pop("batch")
        self.record = read_json(path) or {"chosen": {}, "trials": {}, "tests": {}}
        self.tasks: dict[int, Task] = {}

    def known(self, part: str, key: str) -> Any:
        """Return what is written; None where nothing is."""
        return self.record[part].get(f"{self.name}|{key}")

    def remember(self, part: str, key: str, found: Any) -> None:
        """Write one more result."""
        self.record[part][f"{self.name}|{key}"] = found
        write_json(self.path, self.record)

    def go(self, seeds: Sequence[int]) -> None:
        """Choose each row's values, then train every row with each seed."""
        for row in self.rows:
            if self.known("chosen", row) is None:
                self.remember("chosen", row, self.choose(row))
        for seed in seeds:
            for row in self.rows:
                if self.known("tests", f"{seed}|{row}") is None:
                    found = self.train(row, seed, self.known("chosen", row)["best"], "test")
                    self.remember("tests", f"{seed}|{row}", found)

    def space(self, row: str) -> dict[str, tuple[float, float, float]]:
        """Return what a row's trials search: name → lowest, highest, first."""
        lr = self.rates.get(row, self.lr)
        names = dict.fromkeys(name for _, name, _, _ in Formatter().parse(self.rows[row]) if name)
        return {"lr": (lr / SPAN, lr * SPAN, lr)} | {name: BOUNDS[name] for name in names}

    def choose(self, row: str) -> dict[str, Any]:
        """Return a row's best values, their validation score, and all trials.

        The search is seeded: a repeated one asks for the same values, which are written down.
        """
        space, tried = self.space(row), []
        first = {name: start for name, (_, _, start) in space.items()}
        if not self.trials:
            return {"best": first}
        import optuna

        sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=max(3, self.trials // 3))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.enqueue_trial(first)

        def objective(trial: Any) -> float:
            values = {
                name: trial.suggest_float(name, low, high, log=True)
                for name, (low, high, _) in space.items()
            }
            scores = [self.trial(row, seed, values) for seed in self.tune_seeds]
            tried.append((values, statistics.fmean(scores)))
            return tried[-1][1]

        study.optimize(objective, n_trials=self.trials)
        best, score = max(tried, key=lambda pair: pair[1])
        return {"best": best, "validation": score, "trials": tried}

    def trial(self, row: str, seed: int, values: Values) -> float:
        """Return a validation score, written down or by training; 0 for one that diverged."""
        key = f"{seed}|{row}|" + ", ".join(f"{k} {v:.3g}" for k, v in values.items())
        if self.known("trials", key) is None:
            found = next(iter(self.train(row, seed, values, "validation").values()))
            self.remember("trials", key, found if math.isfinite(found) else 0.0)
        return float(self.known("trials", key))

    def train(self, row: str, seed: int, values: Values, part: str) -> dict[str, float]:
        """Train a student; return its scores."""
        if seed not in self.tasks:
            kept = {k: task for k, task in self.tasks.items() if k in self.tune_seeds}
            self.tasks = kept | {seed: self.make(seed)}
            if seed not in self.tune_seeds and self.tasks[seed].teacher:
                self.remember("tests", f"{seed}|teacher", self.tasks[seed].teacher)
        task, given = self.tasks[seed], {k: v for k, v in values.items() if k != "lr"}
        loss = self.loss(row, self.rows[row].format(**given), task)
        batches = InMemory(task.train, self.batch)
        try:
            model = fit(task.build, batches, loss, lr=values["lr"], seed=seed, **self.options)
        except FloatingPointError:
            return {"diverged": math.nan}
        found = {name: round(score, 3) for name, score in task.score(model, part).items()}
        print(f"{self.name} {row} {seed} {part}: {next(iter(found.values()))}", flush=True)
        return found

    def tests(self, row: str, score: str = "accuracy") -> dict[int, float]:
        """Return a row's test scores by seed."""
        keys = (key.removeprefix(f"{self.name}|").split("|", 1) for key in self.record["tests"])
        found = {int(key[0]): self.known("tests", "|".join(key)) for key in keys if key[1] == row}
        return {seed: scores[score] for seed, scores in found.items()}

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
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from benchmarks.fit import InMemory, Rows, fit
from benchmarks.losses import Loss, loss_of
from benchmarks.pages.numbers import difference, markdown, spread
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
    """(student, "validation" or "test") → scores."""
    teacher: dict[str, float]
    """Its scores of the test rows."""


class Study(NamedTuple):
    """Rows of a table and how they are trained."""

    rows: Mapping[str, str]
    """Name → the loss's text."""
    task: Callable[[int], Task]
    """Of a seed."""
    options: Mapping[str, Any]
    """Of `fit`, and "batch"."""
    lr: float
    """Of each row's first trial, and of rows that are not tuned."""
    test_rows: int = 0
    loss: Callable[[str, str, Task], Loss] = lambda row, text, task: loss_of(text)
    """(row, text, task) → loss, where a row is more than its text."""
    rates: Mapping[str, float] = MappingProxyType({})
    """Of rows that have another one than ``lr``."""
    score: str = "accuracy"
    """What trials choose by, and the page shows."""
    lower: bool = False
    """Whether less of it is better."""
    overlap: float = 0.0
    """Of the `interval` where each seed splits one pool anew."""


class Table:
    """The runs of one study in a file of three parts: "chosen", "trials" and "tests".

    Args:
        path: of the file.
        name: what the names of its runs begin with, for a file of several tables.
        study: the tasks of its ``tune_seeds`` and of the last other seed are kept.
        trials: a row; 0 takes the first values.
        tune_seeds: of the trials.

    Raises:
        SystemExit: trials are asked for and Optuna is not installed.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        study: Study,
        trials: int,
        tune_seeds: Sequence[int] = (100, 101),
    ) -> None:
        if trials:
            try:
                import optuna
            except ImportError:
                raise SystemExit("--trials needs Optuna: pip install optuna") from None
            optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path, self.name, self.study = path, name, study
        self.trials, self.tune_seeds = trials, tune_seeds
        self.options = dict(study.options)
        self.batch = self.options.pop("batch")
        self.record = read_json(path) or {"chosen": {}, "trials": {}, "tests": {}}
        if study.overlap:
            self.record["overlap"] = round(study.overlap, 4)
        self.tasks: dict[int, Task] = {}
        self.best = min if study.lower else max

    def known(self, part: str, key: str) -> Any:
        """Return what is written; None where nothing is."""
        return self.record[part].get(f"{self.name}|{key}")

    def remember(self, part: str, key: str, found: Any) -> None:
        """Write one more result."""
        self.record[part][f"{self.name}|{key}"] = found
        write_json(self.path, self.record)

    def go(self, seeds: Sequence[int]) -> None:
        """Choose each row's values, then train every row with each seed."""
        for row in self.study.rows:
            if self.known("chosen", row) is None:
                self.remember("chosen", row, self.choose(row))
        for seed in seeds:
            for row in self.study.rows:
                if self.known("tests", f"{seed}|{row}") is None:
                    found = self.train(row, seed, self.known("chosen", row)["best"], "test")
                    self.remember("tests", f"{seed}|{row}", found)

    def space(self, row: str) -> dict[str, tuple[float, float, float]]:
        """Return what a row's trials search: name → lowest, highest, first."""
        lr = self.study.rates.get(row, self.study.lr)
        names = dict.fromkeys(
            name for _, name, _, _ in Formatter().parse(self.study.rows[row]) if name
        )
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
        direction = "minimize" if self.study.lower else "maximize"
        study = optuna.create_study(direction=direction, sampler=sampler)
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
        best, score = self.best(tried, key=lambda pair: pair[1])
        return {"best": best, "validation": score, "trials": tried}

    def trial(self, row: str, seed: int, values: Values) -> float:
        """Return a validation score, written down or by training; the worst if it diverged."""
        key = f"{seed}|{row}|" + ", ".join(f"{k} {v:.3g}" for k, v in values.items())
        if self.known("trials", key) is None:
            found = self.train(row, seed, values, "validation").get(self.study.score, math.nan)
            worst = 1e9 if self.study.lower else 0.0
            self.remember("trials", key, found if math.isfinite(found) else worst)
        return float(self.known("trials", key))

    def train(self, row: str, seed: int, values: Values, part: str) -> dict[str, float]:
        """Train a student; return its scores."""
        if seed not in self.tasks:
            kept = {k: task for k, task in self.tasks.items() if k in self.tune_seeds}
            self.tasks = kept | {seed: self.study.task(seed)}
            if seed not in self.tune_seeds and self.tasks[seed].teacher:
                self.remember("tests", f"{seed}|teacher", self.tasks[seed].teacher)
        task, given = self.tasks[seed], {k: v for k, v in values.items() if k != "lr"}
        loss = self.study.loss(row, self.study.rows[row].format(**given), task)
        batches = InMemory(task.train, self.batch)
        try:
            model = fit(task.build, batches, loss, lr=values["lr"], seed=seed, **self.options)
        except FloatingPointError:
            return {"diverged": math.nan}
        found = {name: round(score, 3) for name, score in task.score(model, part).items()}
        print(f"{self.name} {row} {seed} {part}: {found[self.study.score]}", flush=True)
        return found

    def tests(self, row: str) -> dict[int, float]:
        """Return a row's test scores by seed."""
        keys = (key.removeprefix(f"{self.name}|").split("|", 1) for key in self.record["tests"])
        found = {int(key[0]): self.known("tests", "|".join(key)) for key in keys if key[1] == row}
        return {seed: scores.get(self.study.score, math.nan) for seed, scores in found.items()}


def page(table: Table, heading: str, against: str = "") -> str:
    """Return the table of a comparison; differences are to a row, the best one without a name."""
    study, scores = table.study, {row: table.tests(row) for row in table.study.rows}
    means = {row: sum(found.values()) / len(found) for row, found in scores.items()}
    trained = [row for row in means if math.isfinite(means[row])]
    best = against or table.best(trained, key=lambda row: means[row])
    lines = [("teacher", "", spread(list(table.tests("teacher").values())), "")]
    for row, found in scores.items():
        chosen = table.known("chosen", row)
        values = ", ".join(f"{name} {value:.3g}" for name, value in chosen["best"].items())
        values += f" ({chosen['validation']:.2f})" if "validation" in chosen else ""
        less = "–" if row == best else difference(found, scores[best], study.overlap)
        lines.append((row, values, spread(list(found.values())), less))
    unit = "%" if study.score == "accuracy" else study.score
    chosen = f"chosen (validation {unit})" if table.trials else "rate"
    points = "points" if unit == "%" else unit
    rows = markdown(("", chosen, f"test {unit}", f"minus {best}, {points} (95 % interval)"), lines)
    text = f"{heading}\n\n{rows}\n\nMean ± sample standard deviation over {len(scores[best])} "
    text += "seeds; differences are paired by seed."
    if study.overlap:
        text += (
            " The seeds' splits share rows, so the intervals are widened (Nadeau & Bengio 2003)."
        )
    if study.test_rows:
        error = math.sqrt(means[best] * (100 - means[best]) / study.test_rows)
        text += f" {study.test_rows:,} test rows alone give an accuracy a standard error of "
        text += f"{error:.2f} points; that of a difference may be smaller or larger."
    return text + "\n"

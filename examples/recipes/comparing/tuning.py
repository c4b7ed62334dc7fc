"""The choice of hyper-parameters on the validation split, by Optuna, the same for every method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .. import say
from ..files import DataError

Values = dict[str, float]


@dataclass(frozen=True)
class Tuned:
    """The best values, their score, and every trial as (values, score)."""

    best: Values
    score: float
    trials: list[tuple[Values, float]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return what a file of results keeps."""
        return {"best": self.best, "validation": self.score, "trials": self.trials}


def tune(
    score: Callable[[Values], float],
    space: Mapping[str, tuple[float, float]],
    trials: int,
    *,
    first: Mapping[str, float],
    seed: int = 0,
) -> Tuned:
    """Return the values of the highest score among ``trials``; equal scores: the earlier ones.

    The search is Optuna's TPE, seeded: the same scores give the same trials, so that a run that
    was stopped and repeated asks for the same values again.

    Args:
        score: of one set of values; NaN counts as the worst.
        space: name → (lowest, highest), searched on a logarithmic scale.
        trials: how many sets are tried.
        first: the first set; those of its names that are searched are brought into their range.
        seed: of the search.

    Raises:
        DataError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise DataError("tuning needs: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(3, trials // 3))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial(
        {name: min(max(first[name], low), high) for name, (low, high) in space.items()}
    )
    tried: list[tuple[Values, float]] = []

    def objective(trial: Any) -> float:
        values = {
            name: trial.suggest_float(name, low, high, log=True)
            for name, (low, high) in space.items()
        }
        found = score(values)
        found = found if math.isfinite(found) else -1e9
        tried.append((values, found))
        return found

    study.optimize(objective, n_trials=trials)
    best, highest = max(tried, key=lambda pair: pair[1])
    return Tuned(best, highest, tried)


def tune_rate(score: Callable[[float], float], grid: Sequence[float]) -> Tuned:
    """Return the learning rate of the highest score, found by a few trials around ``grid``.

    The search reaches from a quarter of its lowest rate to four times its highest, and takes three
    trials more than the grid has rates; a grid of one rate is taken as it is, untried.
    """
    if len(grid) == 1:
        return Tuned({"lr": grid[0]}, float("nan"))
    space, first = {"lr": (min(grid) / 4, max(grid) * 4)}, {"lr": sorted(grid)[len(grid) // 2]}
    return tune(lambda values: score(values["lr"]), space, len(grid) + 3, first=first)


def tune_rates(
    methods: Sequence[str], score: Callable[[str, float], float], grid: Sequence[float]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return each method's best learning rate, and its trials in percent by rate; print them.

    ``score`` is the accuracy of a method and a rate on the validation split, a part of 1.
    """
    chosen, tried = {}, {}
    for method in methods:
        found = tune_rate(partial(score, method), grid)
        chosen[method] = found.best["lr"]
        tried[method] = {f"{at['lr']:.3g}": round(100 * value, 2) for at, value in found.trials}
        say(f"validation, {method}, %: {tried[method]}")
    return chosen, tried

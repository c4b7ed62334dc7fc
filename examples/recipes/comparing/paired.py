"""Scores over seeds: what was chosen, each row of a table less the best baseline, its errors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from . import markdown

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Values → the 97.5 % point of Student's t with one degree of freedom less."""


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> str:
    """Return the mean difference of equal seeds with its 95 % interval (Student's t).

    One seed has no interval; more than ten take the factor 2.262 of ten, a little too wide.
    """
    gaps = [one[seed] - other[seed] for seed in one if seed in other]
    mean = statistics.fmean(gaps)
    if len(gaps) < 2:
        return f"{mean:+.2f}"
    half = T_975[min(len(gaps), 10)] * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"


def sampling_error(accuracy: float, rows: int) -> float:
    """Return the standard error of an accuracy in percent that a test split of ``rows`` has."""
    return math.sqrt(accuracy * (100 - accuracy) / rows)


def less_the_best(
    what: str, scores: Mapping[str, Mapping[int, float]], higher_is_better: bool = True
) -> list[str]:
    """Return a table: each method less the best baseline, in ``what``, by scores of equal seeds.

    The baselines are the methods that are not by MCLD; without one, the best of all stands there.
    """
    sign = 1 if higher_is_better else -1
    means = {name: sign * statistics.fmean(found.values()) for name, found in scores.items()}
    baselines = [name for name in means if not name.startswith("mcld")] or list(means)
    best = max(baselines, key=lambda name: means[name])
    gaps = ((x, difference(found, scores[best])) for x, found in scores.items() if x != best)
    return markdown([f"minus {best}", f"{what} (95 % interval over the seeds)"], gaps)


def choices(
    chosen: Mapping[str, Mapping[str, Any]], what: str = "validation %", unit: float = 100.0
) -> str:
    """Return a table of what the trials chose, and its score on the validation split, in units."""
    rows = (
        (name, words_of(found["best"]), f"{unit * found['validation']:.2f}")
        for name, found in chosen.items()
    )
    return "\n".join(markdown(["method", "chosen by the trials", what], rows))


def words_of(values: Mapping[str, float]) -> str:
    """Return tried values as a line says them."""
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())

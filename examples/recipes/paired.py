"""Accuracies over seeds: the paired difference of two rows of a table, and its errors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

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


def minus(best: str, scores: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Return a table's rows: each method less ``best``, by the scores of each at each seed."""
    return [
        f"| {name} | {difference(found, scores[best])} |"
        for name, found in scores.items()
        if name != best
    ]


def sampling_error(accuracy: float, rows: int) -> float:
    """Return the standard error of an accuracy in percent that a test split of ``rows`` has."""
    return math.sqrt(accuracy * (100 - accuracy) / rows)

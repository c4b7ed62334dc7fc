"""The choice of a learning rate on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def search_rate(
    score: Callable[[float], float], grid: Sequence[float]
) -> tuple[float, dict[float, float]]:
    """Return the rate of the highest score, and all scores.

    Where an edge of the grid wins, rates beyond it are tried, each twice (or half) the last, until
    one is no better; a grid of one rate is taken as it is.
    """
    scores = {rate: score(rate) for rate in grid}
    best = max(scores, key=lambda rate: scores[rate])
    while len(scores) > 1 and best in (min(scores), max(scores)):
        beyond = best * 2 if best == max(scores) else best / 2
        scores[beyond] = score(beyond)
        if scores[beyond] <= scores[best]:
            break
        best = beyond
    return best, dict(sorted(scores.items()))

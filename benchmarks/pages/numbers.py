"""Numbers over seeds as a page shows them: means, paired differences, Markdown tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.record import replaced

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Values → the 97.5 % point of Student's t with one degree of freedom less."""
START, END = "<!-- made from the JSON: do not edit -->", "<!-- end -->"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return ``mean ± sd`` of numbers (sample standard deviation; none for one value)."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def interval(gaps: Sequence[float], overlap: float = 0.0) -> tuple[float, float, float]:
    """Return mean, lower and upper end of the 95 % interval (Student's t) of differences.

    More than ten take the factor 2.262 of ten, a little too wide; one has no interval (NaN). Where
    each seed splits one pool anew, ``overlap`` is test rows / training rows: the splits share rows,
    so the variance of the mean is that of a seed times 1/n + overlap (Nadeau & Bengio 2003).
    """
    mean = statistics.fmean(gaps)
    if len(gaps) < 2:
        return mean, math.nan, math.nan
    error = statistics.stdev(gaps) * math.sqrt(1 / len(gaps) + overlap)
    half = T_975[min(len(gaps), 10)] * error
    return mean, mean - half, mean + half


def gaps(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """Return the differences of equal seeds."""
    return [one[seed] - other[seed] for seed in sorted(one) if seed in other]


def difference(one: Mapping[int, float], other: Mapping[int, float], overlap: float = 0.0) -> str:
    """Return the mean difference of equal seeds with its 95 % `interval`."""
    mean, low, high = interval(gaps(one, other), overlap)
    return f"{mean:+.2f}" + ("" if math.isnan(low) else f" ({low:+.2f} to {high:+.2f})")


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def fill(page: Path, text: str) -> None:
    """Put a text between the two marks of a page."""
    before, _, rest = page.read_text().partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{page}: expected the lines {START!r} and {END!r}")
    with replaced(page) as new:
        new.write_text(f"{before}{START}\n\n{text.strip()}\n\n{END}{after}")

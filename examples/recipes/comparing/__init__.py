"""What compares: rates tuned alike for every loss, trainings over seeds, differences, charts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return ``mean ± sd`` of numbers (sample standard deviation; none for one value)."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [
        "".join(f"| {cell} " if cell else "| " for cell in map(str, row)) for row in [head, *rows]
    ]
    return [f"{lines[0]}|", "|---" * len(head) + "|", *(f"{line}|" for line in lines[1:])]

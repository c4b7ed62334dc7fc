"""Accuracies of several methods over several seeds: what is kept of a run, and its table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .logs import Row


@dataclass(frozen=True)
class Result:
    """One training: test accuracy of its last epoch and of its best one by *validation*."""

    method: str
    seed: int
    lr: float
    test_last: float
    test_best: float | None
    best_epoch: int | None
    parameters: int
    seconds: float


def summarise(method: str, seed: int, lr: float, parameters: int, rows: list[Row]) -> Result:
    """Read the last and the best epoch off the history; ties go to the earlier epoch."""
    best = None
    if "validation_accuracy" in rows[0]:
        best = max(rows, key=lambda row: (row["validation_accuracy"], -row["epoch"]))
    return Result(
        method,
        seed,
        lr,
        rows[-1]["test_accuracy"],
        best["test_accuracy"] if best else None,
        best["epoch"] if best else None,
        parameters,
        sum(row["seconds"] for row in rows),
    )


def spread(values: Sequence[float]) -> str:
    """Return ``mean ± sd`` in percent (sample standard deviation; none for one value)."""
    mean = f"{100 * statistics.fmean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.2f}"


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table, a method a line, in the order of first appearance."""
    lines = [
        "| method | lr | parameters | test % (last epoch) | test % (best validation epoch) |",
        "|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(result.method for result in results):
        mine = [result for result in results if result.method == method]
        best = [result.test_best for result in mine if result.test_best is not None]
        lines.append(
            f"| {method} | {mine[0].lr:g} | {mine[0].parameters:,} | "
            f"{spread([result.test_last for result in mine])} | {spread(best) if best else '–'} |"
        )
    return "\n".join(lines)


def as_records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return plain dictionaries for JSON."""
    return [asdict(result) for result in results]

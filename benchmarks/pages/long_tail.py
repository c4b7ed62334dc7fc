"""The page and the summaries of long_tail.py's results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages.numbers import difference, markdown, spread

COLUMNS = {
    "balanced": "balanced",
    "posthoc_balanced": "balanced after the training",
    "head": "head",
    "middle": "middle",
    "tail": "tail",
    "ece": "calibration error",
    "uneven": "as in training",
    "uneven_ece": "calibration error, as in training",
}
PAIRS = (
    ("CE, adjusted", "CE"),
    ("KD, adjusted", "KD"),
    ("CE + KD, adjusted", "CE + KD"),
    ("CE + DKD, adjusted", "CE + DKD"),
    ("CE + sample-wise, adjusted", "CE + sample-wise"),
    ("MCLD, prior, adjusted", "MCLD"),
    ("MCLD + CE, prior, adjusted", "MCLD + CE"),
    ("KD", "CE"),
    ("CE + KD", "CE"),
    ("CE + sample-wise", "CE"),
    ("MCLD", "CE"),
    ("MCLD + CE", "CE"),
    ("MCLD + CE", "CE + sample-wise"),
    ("KD, adjusted", "CE, adjusted"),
    ("CE + KD, adjusted", "CE, adjusted"),
    ("CE + DKD, adjusted", "CE, adjusted"),
    ("CE + sample-wise, adjusted", "CE, adjusted"),
    ("MCLD, prior, adjusted", "CE, adjusted"),
    ("MCLD + CE, prior, adjusted", "CE, adjusted"),
    ("MCLD, prior, adjusted", "CE + sample-wise, adjusted"),
    ("MCLD + CE, prior, adjusted", "CE + sample-wise, adjusted"),
    ("MCLD, prototypes, prior, adjusted", "CE, adjusted"),
    ("MCLD, prototypes, prior, adjusted", "MCLD, prior, adjusted"),
)
INTRODUCTION = Path(__file__).with_name("long_tail.md").read_text("utf-8")

Record = dict[str, dict[str, dict[str, Any]]]


def values(record: Record, name: str, ratio: int, row: str, column: str) -> dict[int, float]:
    """Return a column of a row of a table by seed."""
    found = {}
    for key, scores in record["tests"].items():
        place = key.split("|")
        if place[:2] == [name, str(ratio)] and place[3] == row and column in scores:
            found[int(place[2])] = scores[column]
    return found


def page(record: Record, rows: Sequence[str]) -> str:
    """Return the page: a table and the paired differences for each data set and ratio."""
    text = [INTRODUCTION]
    for name, ratio in dict.fromkeys(tuple(key.split("|")[:2]) for key in record["tests"]):
        section = _section(record, rows, name, int(ratio))
        if section:
            text += [f"## {name}, ratio {ratio}", "", *section, ""]
    return "\n".join(text)


def _section(record: Record, listed: Sequence[str], name: str, ratio: int) -> list[str]:
    def of(row: str, column: str) -> dict[int, float]:
        return values(record, name, ratio, row, column)

    present = [row for row in listed if of(row, "balanced")]
    if not present:
        return []
    rows = [[row, *(cell(of(row, column)) for column in COLUMNS)] for row in ("teacher", *present)]
    gaps = [
        [f"{one} − {other}", *(difference(of(one, c), of(other, c)) for c in ("balanced", "tail"))]
        for one, other in PAIRS
        if one in present and other in present
    ]
    head = ("difference", "balanced", "tail")
    lines = [markdown(("", *COLUMNS.values()), rows), "", markdown(head, gaps)]
    after = [
        [row, difference(of(row, "posthoc_balanced"), of(other, "balanced"))]
        for row in present
        for other in (f"{row}, adjusted", f"{row}, prior, adjusted")
        if other in present
    ]
    if after:
        head = ("", "balanced after the training − adjusted in the training")
        lines += ["", markdown(head, after)]
    chosen = []
    for row in present:
        found = record["chosen"][f"{name}|{ratio}|{row}"]
        score = found.get("validation", math.nan)
        score *= 100 if score <= 1 else 1
        words = ", ".join(f"{key} {value:.3g}" for key, value in found["best"].items())
        chosen.append((row, words, f"{score:.2f}"))
    return [*lines, "", markdown(("method", "chosen by the trials", "validation %"), chosen)]


def cell(found: dict[int, float]) -> str:
    """Return mean and deviation, a dash for nothing."""
    return spread(list(found.values())) if found else "–"

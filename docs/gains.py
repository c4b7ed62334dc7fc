"""Draw README's picture: ``python docs/gains.py`` writes docs/assets/gains.svg.

What each loss gains over cross-entropy, in points of test accuracy, on each set of the committed
comparisons: the mean of the differences paired by seed, and its 95 % interval (Student's t).
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

from drawing import Drawing, write  # noqa: E402

RESULTS = DOCS.parent / "benchmarks" / "results"
SETS = {
    "digits": "comparison_digits.json",
    "Fashion-MNIST": "comparison_fashion_mnist.json",
    "528, languages": "comparison_udhr.json",
    "20, newsgroups": "comparison_newsgroups.json",
    "leaf, outlines": "comparison_leaf.json",
    "Tiny-ImageNet": "tiny_imagenet.json",
    "Tiny-ImageNet, wider": "tiny_imagenet_2x_10.json",
    "Tiny-ImageNet, all rows": "tiny_imagenet_lite1_90900_1x_15_trials5.json",
}
NAMES = {  # as the files have them
    "MCLD + CE": ("mcld-ce", "MCLD + CE, no ramp"),
    "CE + sample-wise": (
        "mcld-ce:weight_instance=0,weight_category=0",
        "CE + sample-wise",
    ),
    "MCLD, without CE": ("mcld", "MCLD, no ramp"),
    "CE + DKD": ("dkd", "CE + DKD"),
    "CE + KD": ("kd", "CE + KD"),
    "CE + NKD": ("nkd",),
    "CE + DIST": ("dist",),
    "CE + LSKD": ("kd-ls",),
    "CE + RLD": ("rld",),
    "CE + WTTM": ("wttm",),
}
T_975 = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t by degrees of freedom, at 97.5 %."""
LEFT, TOP, WIDTH, ROW, LOW, HIGH = 138, 40, 96, 17, -3.0, 5.5


def accuracies(file: Path) -> dict[str, dict[int, float]]:
    """Return the test accuracy in % by method and seed."""
    content = json.loads(file.read_text("utf-8"))
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for run in content.get("runs", ()):
        value = run["test_last"] * 100 if "test_last" in run else run["accuracy %"]
        found[run["method"]][run["seed"]] = value
    for key, value in content.get("tests", {}).items():
        method, _, _, seed = key.split("|")
        found[method][int(seed)] = value
    return {("ce" if name == "CE" else name): values for name, values in found.items()}


def gain(file: Path, names: tuple[str, ...]) -> tuple[float, float] | None:
    """Return mean and half the 95 % interval of a method's gain over CE; None if not measured."""
    runs = accuracies(file)
    values = next((runs[name] for name in names if name in runs), None)
    if values is None:
        return None
    differences = [values[seed] - runs["ce"][seed] for seed in values if seed in runs["ce"]]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences), T_975[len(differences) - 1] * error


def picture() -> Drawing:
    """Draw one column a set, one row a loss."""
    height = TOP + ROW * len(NAMES) + 38
    drawing = Drawing(
        LEFT + WIDTH * len(SETS) + 12, height, "What each loss gains over cross-entropy, by set"
    )
    for row, name in enumerate(NAMES):
        drawing.text(LEFT - 10, TOP + ROW * (row + 0.5) + 4, name, "ink end")
    for column, (title, file) in enumerate(SETS.items()):
        left = LEFT + column * WIDTH
        first, _, second = title.partition(", ")
        drawing.text(left + WIDTH / 2, 18 if second else 25, first, "ink middle")
        if second:
            drawing.text(left + WIDTH / 2, 32, second, "ink middle")

        def at(points: float, left: float = left) -> float:
            inside = min(max(points, LOW), HIGH)
            return left + 4 + (inside - LOW) / (HIGH - LOW) * (WIDTH - 8)

        bottom = TOP + ROW * len(NAMES)
        drawing.line((at(0), TOP), (at(0), bottom), "faint")
        for mark in (-2, 0, 2, 4):
            drawing.text(at(mark), bottom + 15, str(mark), "ink middle")
        for row, names in enumerate(NAMES.values()):
            found = gain(RESULTS / file, names)
            if found is None:
                continue
            mean, half = found
            kind = "pull" if mean > half else "push" if mean < -half else "other"
            y = TOP + ROW * (row + 0.5)
            drawing.line((at(mean - half), y), (at(mean + half), y), kind)
            drawing.dot(at(mean), y, kind)
    drawing.text(
        LEFT,
        height - 6,
        "points of test accuracy above cross-entropy; line: 95 % interval over seeds",
    )
    return drawing


if __name__ == "__main__":
    write(DOCS / "assets" / "gains.svg", str(picture()))

"""README's picture, docs/assets/gains.svg: ``python docs/committed.py`` writes it.

What each loss gains over cross-entropy, in points of test accuracy, on each set of the committed
comparisons: the mean of the differences paired by seed, and its 95 % interval (Student's t).
"""

from __future__ import annotations

import records
from drawing import Drawing

SETS = {
    "digits": "equal_digits.json",
    "Fashion-MNIST": "equal_fashion_mnist.json",
    "528, languages": "equal_udhr.json",
    "20, newsgroups": "comparison_newsgroups.json",
    "leaf, outlines": "comparison_leaf.json",
    "Tiny-ImageNet": "tiny_imagenet.json",
    "Tiny-ImageNet, wider": "tiny_imagenet_2x_10.json",
    "Tiny-ImageNet, all images": "tiny_imagenet_lite1_90900_1x_15_trials5.json",
}
NAMES = {  # as the files have them
    "MCLD + CE": ("MCLD + CE", "MCLD + CE, no ramp"),
    "CE + sample-wise": ("CE + sample-wise",),
    "MCLD, without CE": ("MCLD", "MCLD, no ramp"),
    "CE + DKD": ("CE + DKD", "DKD"),
    "CE + KD": ("CE + KD", "KD"),
    "CE + NKD": ("CE + NKD", "NKD"),
    "CE + DIST": ("CE + DIST", "DIST"),
    "CE + LSKD": ("CE + standardised KD", "standardised KD"),
    "CE + RLD": ("CE + RLD", "RLD"),
    "CE + WTTM": ("CE + WTTM", "WTTM"),
}
LEFT, TOP, WIDTH, ROW, LOW, HIGH = 138, 40, 96, 17, -3.0, 5.5


def gain(file: str, names: tuple[str, ...]) -> tuple[float, float, float] | None:
    """Return a method's gain over CE with its 95 % interval; None if not measured."""
    record = records.read(file)
    known = records.tests(record)
    name = next((name for name in names if name in known), None)
    return None if name is None else records.difference(record, name, "CE")


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
            found = gain(file, names)
            if found is None:
                continue
            mean, low, high = found
            kind = "pull" if low > 0 else "push" if high < 0 else "other"
            y = TOP + ROW * (row + 0.5)
            drawing.line((at(low), y), (at(high), y), kind)
            if LOW < mean < HIGH:
                drawing.dot(at(mean), y, kind)
    drawing.text(
        LEFT,
        height - 6,
        "points of test accuracy above cross-entropy; line: 95 % interval, cut at the edges",
    )
    return drawing

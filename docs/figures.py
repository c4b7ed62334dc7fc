"""Draw which pairs each term contrasts: ``python docs/figures.py`` writes docs/assets/pairs_*.svg.

Nothing is drawn from memory: each sign is that of the loss's own derivative. Where teacher rows
are one-hot, one class a sample, the similarity of student row i and teacher row j is the student's
logit j, so the derivative with respect to that logit tells what the term does with the pair.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mcld_core import category_wise, instance_wise

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawing import Drawing, write

ASSETS = Path(__file__).resolve().parent / "assets"
SAMPLES = ("cat 1", "cat 2", "cat 3", "dog 1", "dog 2", "car 1")
LABELS = np.array([0, 0, 0, 1, 1, 2])
CLASSES = ("cat", "dog", "car", "ship", "frog")
STEP = 1e-5
WIDTH, HEIGHT, CELL = 300, 330, 36


def signs(term: Callable[..., float], labels: np.ndarray) -> np.ndarray:
    """Return +1 where the term pulls student row i to teacher row j, -1 where it pushes, else 0.

    Args:
        term: a loss of (student logits, teacher logits, labels) with reduction="none".
        labels: (samples,) int.

    Returns:
        (samples, samples) int.
    """
    count = len(labels)
    student, teacher = np.zeros((count, count)), 100.0 * np.eye(count)
    slopes = np.empty((count, count))
    for j in range(count):
        step = STEP * np.eye(count)[j]
        up = term(student + step, teacher, labels, reduction="none")
        down = term(student - step, teacher, labels, reduction="none")
        slopes[:, j] = (up - down) / (2 * STEP)
    return np.where(np.abs(slopes) < 1e-6, 0, -np.sign(slopes)).astype(int)


def legend(picture: Drawing, entries: dict[str, str]) -> None:
    """Write what the colours mean into the picture's last line."""
    x = (WIDTH - sum(36 + 6.5 * len(words) for words in entries.values())) / 2
    for kind, words in entries.items():
        picture.box(x, HEIGHT - 24, 14, 12, kind)
        picture.text(x + 19, HEIGHT - 14, words)
        x += 36 + 6.5 * len(words)


def pairs(name: str, term: Callable[..., float]) -> Drawing:
    """Draw one term that compares the rows of a batch."""
    picture = Drawing(WIDTH, HEIGHT, f"{name}: which teacher rows pull and push each student row")
    picture.text(WIDTH / 2, 20, name, "ink title middle")
    left, top = 58, 34
    kinds = {1: ("pull", "+"), -1: ("push", "−"), 0: ("out", "·")}
    for (i, j), sign in np.ndenumerate(signs(term, LABELS)):
        kind, mark = kinds[int(sign)]
        x, y = left + j * CELL, top + i * CELL
        picture.box(x + 1.5, y + 1.5, CELL - 3, CELL - 3, kind)
        picture.text(x + CELL / 2, y + CELL / 2 + 4, mark, f"{'white' if sign else 'ink'} middle")
    bottom = top + len(SAMPLES) * CELL
    for i, sample in enumerate(SAMPLES):
        picture.text(left - 8, top + (i + 0.5) * CELL + 4, sample, "ink end")
        picture.text(left + (i + 0.5) * CELL + 4, bottom + 12, sample, "ink end", turn=-60)
    legend(picture, {"pull": "pull", "push": "push", "out": "left out"})
    return picture


def parts_of_a_row() -> Drawing:
    """Draw the term that compares the classes within one row of logits."""
    name = "sample-wise"
    picture = Drawing(WIDTH, HEIGHT, f"{name}: how the logits of one row are compared")
    picture.text(WIDTH / 2, 20, name, "ink title middle")
    width, left = 52, 20

    def row(y: float, heading: str, boxes: list[tuple[int, int, str, str]]) -> None:
        picture.text(left, y, heading)
        for at, span, kind, words in boxes:
            x = left + at * width
            picture.box(x + 1.5, y + 8, span * width - 3, 30, kind)
            color = "ink" if kind == "out" else "white"
            picture.text(x + span * width / 2, y + 27, words, f"{color} middle")

    row(56, "the logits of cat 1", [(i, 1, "out", label) for i, label in enumerate(CLASSES)])
    row(136, "the label's share", [(0, 1, "pull", "cat"), (1, 4, "push", "all the rest")])
    rest = [(i, 1, "push", label) for i, label in enumerate(CLASSES) if i]
    row(216, "how the rest is shared", rest)
    legend(picture, {"pull": "label", "push": "other classes"})
    return picture


def draw(folder: Path = ASSETS) -> None:
    """Write the three pictures into the folder."""
    for name, term in (("instance", instance_wise), ("category", category_wise)):
        write(folder / f"pairs_{name}.svg", str(pairs(f"{name}-wise", term)))
    write(folder / "pairs_sample.svg", str(parts_of_a_row()))


if __name__ == "__main__":
    draw()

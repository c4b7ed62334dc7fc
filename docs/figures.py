"""Draw which pairs each term contrasts: ``python docs/figures.py`` writes docs/assets/pairs_*.svg.

Nothing is drawn from memory: each sign is that of the loss's own derivative. Where teacher rows
are one-hot, one class a sample, the similarity of student row i and teacher row j is the student's
logit j, so the derivative in that logit tells what the term does with the pair.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mcld_core import category_wise, instance_wise

ASSETS = Path(__file__).resolve().parent / "assets"
SAMPLES = ("cat 1", "cat 2", "cat 3", "dog 1", "dog 2", "car 1")
LABELS = np.array([0, 0, 0, 1, 1, 2])
CLASSES = ("cat", "dog", "car", "ship", "frog")
STEP = 1e-5
PULL, PUSH, OUT, INK = "#2f6f4f", "#c8553d", "#f2f2f2", "#22262b"


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


def draw(folder: Path = ASSETS) -> None:
    """Write the three pictures into the folder, each through a temporary file."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "mcld", "font.size": 11, "text.color": INK}
    from matplotlib import pyplot
    from matplotlib.patches import FancyBboxPatch, Patch

    def box(axes, x: float, y: float, color: str, text: str, width: float = 1.0) -> None:
        shape = (x + 0.05, y + 0.05), width - 0.1, 0.9
        style = "round,pad=0,rounding_size=0.12"
        axes.add_patch(FancyBboxPatch(*shape, boxstyle=style, facecolor=color, edgecolor="none"))
        ink = INK if color == OUT else "white"
        axes.text(x + width / 2, y + 0.5, text, ha="center", va="center", color=ink)

    def canvas(title: str, columns: int, rows: float):
        figure, axes = pyplot.subplots(figsize=(3.1, 3.5), facecolor="white")
        axes.set(xlim=(0, columns), ylim=(rows, 0), title=title)
        axes.set_axis_off()
        axes.title.set(fontsize=13, fontweight="bold")
        return figure, axes

    def finish(figure, name: str, legend: dict[str, str]) -> None:
        handles = [Patch(color=color, label=label) for label, color in legend.items()]
        figure.legend(
            handles=handles,
            loc="lower center",
            ncols=len(legend),
            frameon=False,
            fontsize=10,
            handlelength=1.2,
            columnspacing=1.2,
        )
        figure.tight_layout(rect=(0, 0.07, 1, 1))
        temporary = folder / f".{name}.svg"
        figure.savefig(temporary, format="svg", metadata={"Date": None})
        os.replace(temporary, folder / f"pairs_{name}.svg")
        pyplot.close(figure)

    colors = {1: (PULL, "+"), -1: (PUSH, "−"), 0: (OUT, "·")}
    for name, term in (("instance", instance_wise), ("category", category_wise)):
        figure, axes = canvas(f"{name}-wise", len(SAMPLES), len(SAMPLES))
        for (i, j), sign in np.ndenumerate(signs(term, LABELS)):
            box(axes, j, i, *colors[int(sign)])
        for i, sample in enumerate(SAMPLES):
            axes.text(-0.15, i + 0.5, sample, ha="right", va="center")
            axes.text(i + 0.5, 6.15, sample, ha="center", va="top", rotation=60)
        finish(figure, name, {"pull": PULL, "push": PUSH, "left out": OUT})

    figure, axes = canvas("sample-wise", len(CLASSES), 6)
    axes.text(0, 0.5, "the logits of cat 1", va="center")
    for i, label in enumerate(CLASSES):
        box(axes, i, 1, INK, label)
    axes.text(0, 2.6, "how much is the label's", va="center")
    box(axes, 0, 3, PULL, "cat")
    box(axes, 1, 3, PUSH, "all the rest", width=4)
    axes.text(0, 4.6, "how the rest is shared", va="center")
    for i, label in enumerate(CLASSES[1:], 1):
        box(axes, i, 5, PUSH, label)
    finish(figure, "sample", {"label": PULL, "other classes": PUSH})


if __name__ == "__main__":
    draw()

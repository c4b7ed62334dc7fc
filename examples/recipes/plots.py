"""Pictures of a run, by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from .logs import Row


def new_figure(width: float, height: float) -> Any:
    """Return a figure that touches no global state and needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Any) -> bytes:
    """Return the figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def curves(histories: Mapping[str, list[Row]]) -> Any:
    """Draw loss and accuracy by epoch: a colour a training, test solid, validation dotted."""
    figure = new_figure(11, 4.2)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for number, (name, rows) in enumerate(histories.items()):
        epochs = [row["epoch"] for row in rows]
        colour = f"C{number}"
        loss_axes.plot(epochs, [row["loss"] for row in rows], colour, label=name)
        accuracy_axes.plot(epochs, [100 * row["test_accuracy"] for row in rows], colour, label=name)
        if "validation_accuracy" in rows[0]:
            accuracy_axes.plot(
                epochs, [100 * row["validation_accuracy"] for row in rows], colour, linestyle=":"
            )
    loss_axes.set(xlabel="epoch", ylabel="training loss (each method's own)", yscale="log")
    accuracy_axes.set(xlabel="epoch", ylabel="accuracy in %  (test —, validation ···)")
    last = [100 * rows[-1]["test_accuracy"] for rows in histories.values()]
    accuracy_axes.set_ylim(max(0.0, min(last) - 15), min(100.0, max(last) + 3))
    accuracy_axes.legend(loc="lower right")
    return figure

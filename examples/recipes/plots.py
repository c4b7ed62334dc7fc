"""Pictures of a run, by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .logs import Row

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


def new_figure(width: float, height: float) -> Any:
    """Return a figure that touches no global state and needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Any) -> bytes:
    """Return the figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def marker(rows: list[Row]) -> str:
    """Return how to mark the epochs of a curve: a line through one point draws nothing."""
    return "o" if len(rows) == 1 else ""


def curves(histories: Mapping[str, list[Row]]) -> Any:
    """Draw loss and accuracy by epoch: a colour a training, test solid, validation dotted."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = new_figure(11, 4.2)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for number, (name, rows) in enumerate(histories.items()):
        epochs = [row["epoch"] for row in rows]
        look = {"color": f"C{number}", "marker": marker(rows)}
        loss_axes.plot(epochs, [row["loss"] for row in rows], label=name, **look)
        accuracy = [100 * row["test_accuracy"] for row in rows]
        accuracy_axes.plot(epochs, accuracy, label=name, **look)
        if "validation_accuracy" in rows[0]:
            accuracy = [100 * row["validation_accuracy"] for row in rows]
            accuracy_axes.plot(epochs, accuracy, linestyle=":", fillstyle="none", **look)
    loss_axes.set(xlabel="epoch", ylabel="training loss (each method's own)", yscale="log")
    loss_axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss_axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    loss_axes.yaxis.set_minor_formatter(NullFormatter())
    for axes in (loss_axes, accuracy_axes):
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    accuracy_axes.set(xlabel="epoch", ylabel="accuracy in %  (test —, validation ···)")
    last = [100 * rows[-1]["test_accuracy"] for rows in histories.values()]
    accuracy_axes.set_ylim(max(0.0, min(last) - 15), min(100.0, max(last) + 3))
    accuracy_axes.legend(loc="lower right")
    return figure


def terms(rows: list[Row], name: str) -> Any:
    """Draw the unweighted terms of one training by epoch, with the ramp where there is one."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    epochs = [row["epoch"] for row in rows]
    for key in rows[0]:
        if key.startswith("term_") and key != "term_ramp":
            values = [row[key] for row in rows]
            axes.plot(epochs, values, label=key.removeprefix("term_"), marker=marker(rows))
    figure.suptitle(name)
    axes.set(xlabel="epoch", ylabel="mean over the rows, unweighted")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if "term_ramp" in rows[0]:
        ramp = axes.twinx()
        values = [row["term_ramp"] for row in rows]
        ramp.plot(epochs, values, "k:", label="ramp", marker=marker(rows))
        ramp.set(ylim=(0, 1.05), ylabel="ramp of the category-wise term (···)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(axes.lines), frameon=False)
    return figure


def logit_correlations(logits: Logits) -> NDArray[np.float64]:
    """Return the (classes, classes) correlations of the logits over the rows; 0 for constants."""
    centred = logits.astype(np.float64) - logits.mean(0, dtype=np.float64)
    norms = np.sqrt((centred**2).sum(0))
    scaled = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    return scaled.T @ scaled


def correlation_maps(teacher: Logits, students: Mapping[str, Logits]) -> Any:
    """Draw the teacher's logit correlations, and how far each student's are from them."""
    from matplotlib.colors import PowerNorm

    wanted = logit_correlations(teacher)
    differences = {
        name: np.abs(logit_correlations(logits) - wanted) for name, logits in students.items()
    }
    greatest = max(float(difference.max()) for difference in differences.values())
    columns = min(3, 1 + len(students))
    rows = -(-(1 + len(students)) // columns)
    figure = new_figure(3.4 * columns + 1.2, 3.5 * rows)
    figure.get_layout_engine().set(h_pad=0.12)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[1 + len(students) :]:
        axes.set_axis_off()
    panels[0].imshow(wanted, vmin=-1, vmax=1, cmap="RdBu_r")
    panels[0].set(title="teacher: −1 blue, 1 red", xlabel="class", ylabel="class")
    norm = PowerNorm(0.5, 0, max(greatest, 1e-6))  # so that small differences are seen, too
    for axes, (name, difference) in zip(panels[1:], differences.items(), strict=False):
        image = axes.imshow(difference, norm=norm, cmap="magma")
        axes.set(title=f"{name}: mean {difference.mean():.3f}", xlabel="class", ylabel="class")
    figure.colorbar(
        image, ax=panels, shrink=0.75, label="|student's correlation − teacher's|, root scale"
    )
    return figure


def similarity_matrices(
    teacher: Logits, students: Mapping[str, Logits], labels: Labels, rows: int = 96
) -> Any:
    """Draw student–teacher similarities of ``rows`` random rows (always the same), by class.

    The similarity is the default one of MCLD, ⟨student logits, teacher probabilities⟩, minus each
    row's mean, which no loss sees. A student that learnt has bright blocks on the diagonal.
    """
    chosen = np.random.default_rng(0).permutation(len(labels))[:rows]
    order = chosen[np.argsort(labels[chosen], kind="stable")]
    exponentials = np.exp(teacher[order] - teacher[order].max(1, keepdims=True))
    keys = exponentials / exponentials.sum(1, keepdims=True)
    figure = new_figure(3.9 * len(students) + 0.4, 3.6)
    panels = figure.subplots(1, len(students), squeeze=False)[0]
    for axes, (name, logits) in zip(panels, students.items(), strict=True):
        similarity = logits[order] @ keys.T
        similarity = similarity - similarity.mean(1, keepdims=True)
        image = axes.imshow(similarity, cmap="viridis")
        axes.set(title=name, xlabel="teacher's row, by class")
        figure.colorbar(image, ax=axes, shrink=0.75)
        _mark_classes(axes, labels[order])
    panels[0].set_ylabel("student's row, by class")
    return figure


def _mark_classes(axes: Any, labels: Labels) -> None:
    """Put the number of each class at the middle of its rows, and lines between; few classes."""
    classes, starts = np.unique(labels, return_index=True)
    if len(classes) > 20:
        return
    ends = np.append(starts[1:], len(labels))
    middles = (starts + ends - 1) / 2
    axes.set(xticks=middles, yticks=middles, xticklabels=classes, yticklabels=classes)
    for edge in starts[1:] - 0.5:
        axes.axhline(edge, color="white", linewidth=0.4)
        axes.axvline(edge, color="white", linewidth=0.4)


def confusion(logits: Logits, labels: Labels, name: str) -> Any:
    """Draw the confusion matrix: rows are the true classes, in percent of their images."""
    classes = logits.shape[1]
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels, logits.argmax(1)), 1)
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = new_figure(5.6, 5)
    axes = figure.subplots()
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.set(title=name, xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=axes, label="% of the class")
    if classes <= 20:
        axes.set(xticks=range(classes), yticks=range(classes))
        for row, column in zip(*np.nonzero(percent.round() > 0), strict=True):
            value = percent[row, column]
            axes.text(
                column,
                row,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if value > 50 else "black",
            )
    return figure

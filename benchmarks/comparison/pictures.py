"""Pictures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recipes.comparing.plots import marker, new_figure
from recipes.run import Row

from benchmarks.comparison.tables import Record, kind

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


def curves(histories: Mapping[str, list[Row]]) -> Any:
    """Draw the accuracies of all trainings in one panel, and each one's loss in its own.

    Losses of different methods do not compare, so they share no axis.
    """
    columns = min(4, len(histories))
    rows = -(-len(histories) // columns)
    figure = new_figure(2.9 * columns + 1, 3.6 + 2.1 * rows)
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[3.6, *[2.1] * rows])
    accuracy_axes = figure.add_subplot(grid[0, :])
    last = []
    for number, (name, history) in enumerate(histories.items()):
        epochs = [row["epoch"] for row in history]
        look = {"color": f"C{number}", "marker": marker(history)}
        accuracy = [100 * row["test_accuracy"] for row in history]
        last.append(accuracy[-1])
        accuracy_axes.plot(epochs, accuracy, label=name, **look)
        if "validation_accuracy" in history[0]:
            accuracy = [100 * row["validation_accuracy"] for row in history]
            accuracy_axes.plot(epochs, accuracy, linestyle=":", fillstyle="none", **look)
        axes = figure.add_subplot(grid[1 + number // columns, number % columns])
        axes.plot(epochs, [row["loss"] for row in history], **look)
        axes.set(title=name, xlabel="epoch", ylabel="its training loss")
        _whole_epochs(axes)
    accuracy_axes.set(xlabel="epoch", ylabel="accuracy in %  (test —, validation ···)")
    accuracy_axes.set_ylim(max(0.0, min(last) - 15), min(100.0, max(last) + 3))
    accuracy_axes.legend(loc="lower right")
    _whole_epochs(accuracy_axes)
    return figure


def _whole_epochs(axes: Any) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def pairs(records: Sequence[Record]) -> Any:
    """Draw the test accuracy of each method; lines join the trainings of one seed.

    A seed has the same teacher, first weights and batches for every method, so that a line that
    rises says more than two means.
    """
    methods = [name for name in dict.fromkeys(r.method for r in records) if name != "teacher"]
    figure = new_figure(1.5 + 1.2 * len(methods), 4)
    axes = figure.subplots()
    for seed in dict.fromkeys(record.seed for record in records):
        found = {r.method: 100 * r.test_last for r in records if r.seed == seed}
        values = [found[method] for method in methods]
        axes.plot(range(len(methods)), values, marker="o", label=f"seed {seed}")
    axes.set_xticks(range(len(methods)), methods, rotation=20 if len(methods) > 4 else 0)
    axes.set(ylabel=f"{kind(records)} accuracy in %, last epoch")
    axes.legend()
    return figure


def terms(rows: list[Row], name: str) -> Any:
    """Draw the unweighted terms of one training by epoch, on held-out images."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    epochs = [row["epoch"] for row in rows]
    for key in rows[0]:
        if key.startswith("term_"):
            values = [row[key] for row in rows]
            axes.plot(epochs, values, label=key.removeprefix("term_"), marker=marker(rows))
    figure.suptitle(name)
    axes.set(xlabel="epoch", ylabel="mean over held-out rows, unweighted")
    _whole_epochs(axes)
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
    teacher: Logits,
    students: Mapping[str, Logits],
    labels: Labels,
    class_names: Sequence[str],
    rows: int = 96,
) -> Any:
    """Draw student–teacher similarities of ``rows`` random rows (always the same), by class.

    The similarity is the default one of MCLD, ⟨student logits, teacher probabilities⟩, minus each
    row's mean, which no loss sees. A student that learnt has bright blocks on the diagonal.
    """
    chosen = np.random.default_rng(0).permutation(len(labels))[:rows]
    order = chosen[np.argsort(labels[chosen], kind="stable")]
    exponentials = np.exp(teacher[order] - teacher[order].max(1, keepdims=True))
    keys = exponentials / exponentials.sum(1, keepdims=True)
    figure = new_figure(3.9 * len(students) + 0.4, 4.4)
    panels = figure.subplots(1, len(students), squeeze=False)[0]
    for axes, (name, logits) in zip(panels, students.items(), strict=True):
        similarity = logits[order] @ keys.T
        similarity = similarity - similarity.mean(1, keepdims=True)
        image = axes.imshow(similarity, cmap="viridis")
        axes.set(title=name, xlabel="teacher's row, by class")
        figure.colorbar(image, ax=axes, shrink=0.75, pad=0.03)
        _mark_classes(axes, labels[order], class_names)
    panels[0].set_ylabel("student's row, by class")
    return figure


def _mark_classes(axes: Any, labels: Labels, class_names: Sequence[str]) -> None:
    """Put the name of each class at the middle of its rows, and lines between; few classes."""
    classes, starts = np.unique(labels, return_index=True)
    if len(classes) > 20:
        return
    ends = np.append(starts[1:], len(labels))
    middles = (starts + ends - 1) / 2
    names = [class_names[number] for number in classes]
    axes.set_xticks(middles, names, rotation=60 if max(map(len, names)) > 2 else 0)
    axes.set_yticks(middles, names)
    for edge in starts[1:] - 0.5:
        axes.axhline(edge, color="white", linewidth=0.4)
        axes.axvline(edge, color="white", linewidth=0.4)


def confusion(logits: Logits, labels: Labels, class_names: Sequence[str], name: str) -> Any:
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
        long = max(map(len, class_names)) > 2
        axes.set_xticks(range(classes), class_names, rotation=60 if long else 0)
        axes.set_yticks(range(classes), class_names)
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

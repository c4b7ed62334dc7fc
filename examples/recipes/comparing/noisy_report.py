"""Tables and plot of ``noisy_teacher.py``: accuracy by method and teacher, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_json, write_text
from . import markdown, plots, spread

Row = dict[str, Any]
"""Keys: seed, teacher, method, accuracy."""

NOISE = (0, 20, 40, 60)
TEACHERS = (*(f"{percent} %" for percent in NOISE), "weak", "ensemble")
ENSEMBLES = {"mean": "ensemble", "by quality": "ensemble by quality", "by row": "ensemble by row"}
METHODS = {
    "ce": "cross-entropy, no teacher",
    "smooth": "cross-entropy, labels smoothed by 0.1, no teacher",
    "kd": "KD, T = 4",
    "kd-t2": "KD, T = 2",
    "kd-t1": "KD, T = 1",
    "kd-ce": "0.9 KD + 0.1 cross-entropy, T = 4",
    "kd-ce-t2": "0.9 KD + 0.1 cross-entropy, T = 2",
    "kd-ce-t1": "0.9 KD + 0.1 cross-entropy, T = 1",
    "mcld": "MCLD",
    "repair": "MCLD, `repair_rows` by `reliability_weights`",
    "repair-kd": "KD on `repair_rows`",
    "adaptive": "`adaptive_mcld_loss` by `reliability_weights`",
    "outliers": "MCLD, `repair_rows` by `outlier_weights`",
    "bounded": "MCLD, `bounded_loss`, q from 0 to 0.5",
}
WITHOUT_TEACHER = ("ce", "smooth")
DRAWN = ("ce", "kd", "kd-ce", "mcld", "repair", "adaptive", "outliers")


def write_report(
    folder: Path, methods: Sequence[str], rows: list[Row], rates: dict[str, float]
) -> None:
    """Write the numbers, the tables and the plot so far."""
    write_json(folder / "numbers.json", {"rates": rates, "rows": rows})
    write_text(folder / "table.md", tables(methods, rows, rates))
    plots.write_figure(folder / "accuracy.png", draw(methods, rows))
    print(tables(methods, rows, rates))


def percent(rows: list[Row], teacher: str, method: str) -> list[float]:
    """Return the accuracies of a method under a teacher, a seed each, in percent."""
    if method in WITHOUT_TEACHER:
        teacher = TEACHERS[0]
    return [100 * r["accuracy"] for r in rows if (r["teacher"], r["method"]) == (teacher, method)]


def tables(methods: Sequence[str], rows: list[Row], rates: dict[str, float]) -> str:
    """Return the table of all teachers and that of the three ensembles, in Markdown."""
    found = [["the teacher itself", "", *(spread(percent(rows, x, "teacher")) for x in TEACHERS)]]
    for method in methods:
        cells = (spread(percent(rows, name, method)) for name in TEACHERS)
        found.append([METHODS[method], f"{rates[method]:g}", *cells])
    compared = [m for m in ("kd", "mcld", "repair") if m in methods]
    ensembles = (
        [title, *(spread(percent(rows, name, method)) for method in compared)]
        for title, name in ENSEMBLES.items()
    )
    head = ["one good and two bad teachers", *(METHODS[method] for method in compared)]
    lines = [*markdown(["method", "lr", *TEACHERS], found), "", *markdown(head, ensembles)]
    return "\n".join(lines) + "\n"


def draw(methods: Sequence[str], rows: list[Row]) -> Any:
    """Draw accuracy against the teacher's noise, with the standard deviation over seeds."""
    figure = plots.new_figure(8, 5)
    axes = figure.subplots()
    for number, method in enumerate(m for m in DRAWN if m in methods):
        found = [percent(rows, f"{noise} %", method) for noise in NOISE]
        means = [statistics.fmean(v) for v in found]
        errors = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in found]
        label = METHODS[method].replace("`", "")
        style = ":" if method in WITHOUT_TEACHER else "-"
        axes.errorbar(
            NOISE, means, errors, color=f"C{number}", linestyle=style, capsize=3, label=label
        )
    axes.set(xlabel="wrong labels in the teacher's training, %", ylabel="test accuracy, %")
    axes.set_xticks(NOISE)
    axes.legend(fontsize="small")
    return figure

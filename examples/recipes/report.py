"""The report of a run: one HTML file with its pictures inside, readable without a network."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import plots
from .files import write_atomically, write_text
from .logs import Row

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem }
table { border-collapse: collapse } td, th { padding: .3rem .8rem; border-bottom: 1px solid #ccc }
td:not(:first-child), th:not(:first-child) { text-align: right }
img { max-width: 100%; height: auto } figure { margin: 0 } figcaption { color: #555 }
pre { background: #f4f4f4; padding: .8rem; columns: 22rem; font-size: .8rem; white-space: pre-wrap }
"""


@dataclass(frozen=True)
class Predictions:
    """Test-set logits of one seed: the teacher, the untrained student, each trained student."""

    labels: plots.Labels
    teacher: plots.Logits
    untrained: plots.Logits
    students: Mapping[str, plots.Logits]


def write_report(
    path: Path,
    title: str,
    table: str,
    histories: Mapping[str, list[Row]],
    predictions: Predictions,
    options: Mapping[str, Any],
) -> None:
    """Write the report: the table, the curves, what the students' logits look like, the options.

    Its pictures lie in a folder of its name beside it, too, for use elsewhere.

    Args:
        path: the HTML file, written atomically.
        title: its heading.
        table: the accuracies, as `results.table` gives them.
        histories: name of a training → its epochs.
        predictions: logits to look at.
        options: the resolved options.
    """
    sections = [f"<h2>Accuracy</h2>{table_html(table)}"]
    for heading, figure, caption in _figures(histories, predictions):
        image = plots.png(figure)
        file = path.with_suffix("") / f"{heading.lower().replace(' ', '_')}.png"
        write_atomically(file, lambda out, image=image: out.write(image) and None)
        sections.append(picture(heading, image, caption))
    values = "\n".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
    write_text(
        path,
        "\n".join(
            [
                "<!doctype html>",
                '<html lang="en"><head><meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width">',
                '<link rel="icon" href="data:,">',  # else browsers ask for /favicon.ico
                f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
                f"<h1>{html.escape(title)}</h1>",
                *sections,
                f"<h2>Options</h2><pre>{html.escape(values)}</pre>",
                "</body></html>",
                "",
            ]
        ),
    )


def _figures(
    histories: Mapping[str, list[Row]], predictions: Predictions
) -> Iterator[tuple[str, Any, str]]:
    """Yield (heading, figure, caption)."""
    students = predictions.students
    shown = next((name for name in ("mcld", "mcld-ce") if name in students), list(students)[-1])
    yield (
        "Curves",
        plots.curves(histories),
        "Training loss and accuracies by epoch, first seed. Losses of different methods do not "
        "compare; MCLD's grows while the ramp brings in its category-wise term.",
    )
    for name, rows in histories.items():
        if name.startswith("mcld"):
            yield (
                f"Terms of {name}",
                plots.terms(rows, name),
                "The parts of the loss before their weights.",
            )
    yield (
        "Logit correlation",
        plots.correlation_maps(predictions.teacher, students),
        "Correlations between the classes' logits over the test set: the teacher's, and each "
        "student's distance from them. Darker is closer.",
    )
    yield (
        "Similarity",
        plots.similarity_matrices(
            predictions.teacher,
            {"before training": predictions.untrained, f"{shown}, after": students[shown]},
            predictions.labels,
        ),
        "Similarity of the student's rows to the teacher's, random test images sorted by class, "
        "before and after training. Bright blocks on the diagonal: the classes are told apart.",
    )
    yield (
        "Confusion",
        plots.confusion(students[shown], predictions.labels, shown),
        "Test set, in percent of each true class.",
    )


def table_html(markdown: str) -> str:
    """Return a Markdown table as HTML."""
    lines = [
        [html.escape(cell.strip()) for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
    ]
    head = "".join(f"<th>{cell}</th>" for cell in lines[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines[2:]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture(heading: str, image: bytes, caption: str) -> str:
    """Return a section with a PNG inside."""
    data = base64.b64encode(image).decode()
    return (
        f"<h2>{html.escape(heading)}</h2><figure>"
        f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )

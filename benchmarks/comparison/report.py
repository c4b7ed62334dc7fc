"""The report of a comparison: one HTML file with its pictures inside, readable offline."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.comparing.plots import png
from recipes.files import write_atomically, write_text
from recipes.run import Row

from benchmarks.comparison import pictures
from benchmarks.comparison.tables import Record

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

    labels: pictures.Labels
    class_names: Sequence[str]
    teacher: pictures.Logits
    untrained: pictures.Logits
    students: Mapping[str, pictures.Logits]


def write_report(
    path: Path,
    title: str,
    conclusion: str,
    table: str,
    records: Sequence[Record],
    histories: Mapping[str, list[Row]],
    predictions: Predictions,
    options: Mapping[str, Any],
) -> None:
    """Write the report: what came out, the table, the curves, the students' logits, the options.

    Its pictures lie in a folder of its name beside it, too, for use elsewhere.

    Args:
        path: the HTML file, written atomically.
        title: its heading.
        conclusion: its first sentence.
        table: the accuracies, as `tables.table` gives them.
        records: of all trainings.
        histories: name of a training → its epochs.
        predictions: logits to look at.
        options: what was run.
    """
    sections = [f"<h2>Accuracy</h2>{table_html(table)}"]
    for heading, figure, caption in _figures(records, histories, predictions):
        image = png(figure)
        file = path.with_suffix("") / f"{heading.lower().replace(' ', '_')}.png"
        write_atomically(file, lambda out, image=image: out.write(image))
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
                f"<p><strong>{html.escape(conclusion)}</strong></p>",
                *sections,
                f"<h2>Options</h2><pre>{html.escape(values)}</pre>",
                "</body></html>",
                "",
            ]
        ),
    )


def _figures(
    records: Sequence[Record], histories: Mapping[str, list[Row]], predictions: Predictions
) -> Iterator[tuple[str, Any, str]]:
    """Yield (heading, figure, caption)."""
    students, names = predictions.students, predictions.class_names
    shown = next((name for name in students if name.startswith("mcld")), list(students)[-1])
    yield (
        "Pairs",
        pictures.pairs(records),
        "Test accuracy, last epoch. A line joins the trainings of one seed: same teacher, same "
        "first weights, same batches.",
    )
    yield (
        "Curves",
        pictures.curves(histories),
        "Accuracies and training losses by epoch, first seed. Each loss has a panel of its own: "
        "losses of different methods do not compare. MCLD's grows while the ramp brings in its "
        "category-wise term.",
    )
    for name, rows in histories.items():
        if any(key.startswith("term_") for key in rows[0]):
            yield (
                f"Terms of {name}",
                pictures.terms(rows, name),
                "The parts of the loss before their weights, on images that are not trained on.",
            )
    yield (
        "Logit correlation",
        pictures.correlation_maps(predictions.teacher, students),
        "Correlations between the classes' logits over the test set: the teacher's, and each "
        "student's distance from them. Darker is closer.",
    )
    yield (
        "Similarity",
        pictures.similarity_matrices(
            predictions.teacher,
            {"before training": predictions.untrained, f"{shown}, after": students[shown]},
            predictions.labels,
            names,
        ),
        "Similarity of the student's rows to the teacher's, random test images sorted by class, "
        "before and after training. Bright blocks on the diagonal: the classes are told apart.",
    )
    yield (
        "Confusion",
        pictures.confusion(students[shown], predictions.labels, names, shown),
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

"""Make tables, charts and the gallery of results from the committed files in benchmarks/results.

``python docs/committed.py`` writes them into the pages, between two comments, so that no number is
typed by hand; tests/docs/test_docs_made.py compares what is committed with what this makes.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

import class_imbalance  # noqa: E402
import defaults  # noqa: E402
import gains  # noqa: E402
import performance  # noqa: E402
import records  # noqa: E402
from drawing import Drawing, write  # noqa: E402

from benchmarks.pages.numbers import interval  # noqa: E402

RESULTS = DOCS.parent / "benchmarks" / "results"
CHARTS = DOCS / "assets" / "charts"
RECOMMENDED = "all (recommended)"
"""The row of an ablation that the others are compared with."""
PARTS = {
    "noisy_teacher": ("40 %", "a teacher of 40 % wrong labels"),
    "nlp": (None, "characters"),
    "self_distillation": (None, "1,078 images"),
    "timeseries": (None, "leaf outlines"),
}
"""Of pages with several tables or teachers: the drawn column (None: the first), and of what."""
SHAPE = "512,512,1000"
"""Of the chart of speed."""
PICTURES = (".svg", ".png")
SPREAD = re.compile(r"([\d.]+) ± ([\d.]+)$")


Mark = tuple[float, float, float]
"""A number, and the two ends of its line."""


class Spread(NamedTuple):
    """A mean and the sample standard deviation over seeds, in percent."""

    mean: float
    deviation: float


def title(text: str) -> str:
    """Return a page's first heading."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1] if found else ""


def table(text: str, column: str | None = None) -> tuple[str, dict[str, Spread]]:
    """Return a column of the first Markdown table: its head, and its numbers by the first cell.

    Without a name it is the first column that holds a mean ± deviation.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("|")), len(lines))
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    ]
    for at, head in enumerate(rows[0] if rows else []):
        found = {row[0]: SPREAD.match(row[at]) for row in rows[2:] if at < len(row)}
        numbers = {name: Spread(float(m[1]), float(m[2])) for name, m in found.items() if m}
        if head == column or (column is None and numbers):
            return head, numbers
    return "", {}


def chart(what: str, rows: dict[str, Mark], zero: bool = False) -> Drawing:
    """Draw a dot and a line a row.

    Args:
        what: the rows' numbers are.
        rows: each with its number, and the ends of its line.
        zero: the numbers are differences: a line stands at 0, and colours say on which side a
            whole interval is.
    """
    names = {name: textwrap.wrap(name.replace("`", ""), 26) for name in rows}
    values = [value for value, _, _ in rows.values()]
    middle = statistics.median(values)  # a row far from all others would make them one dot
    reach = 6 * max(1.0, statistics.median(abs(value - middle) for value in values))
    low = math.floor(max(middle - reach, min(start for _, start, _ in rows.values())))
    high = math.ceil(min(middle + reach, max(end for _, _, end in rows.values())))
    if zero:
        low, high = min(0, low), max(0, high)
    high = max(low + 1, high)
    left = 26 + 6.6 * max(len(line) for lines in names.values() for line in lines)
    right = left + 230
    bottom = 12 + sum(10 + 14 * len(lines) for lines in names.values())
    picture = Drawing(max(right + 28, 7 * len(what) + 40), bottom + 44, what)

    def x(value: float) -> float:
        inside = min(max(value, low), high)
        return round(left + (right - left) * (inside - low) / (high - low), 1)

    step = next(n * 10**k for k in range(9) for n in (1, 2, 5) if 5 * n * 10**k >= high - low)
    for tick in range(math.ceil(low / step) * step, high + 1, step):
        picture.line((x(tick), 8), (x(tick), bottom), "other" if zero and not tick else "faint")
        words = f"{tick:+d}" if zero and tick else str(tick)
        picture.text(x(tick), bottom + 17, words, "ink middle")
    y = 12.0
    for name, (value, start, end) in rows.items():
        middle = y + 5 + 7 * len(names[name])
        for i, line in enumerate(names[name]):
            picture.text(left - 12, y + 16 + 14 * i, line, "ink end")
        kind = "other"
        if zero:
            kind = "pull" if start > 0 else "push" if end < 0 else "other"
        picture.line((x(start), middle), (x(end), middle), kind)
        if low <= value <= high:
            picture.dot(x(value), middle, kind)
        elif value < low:
            picture.text(left, middle - 3, f"‹ {value:.0f}", "ink")
        else:
            picture.text(right, middle - 3, f"{value:.0f} ›", "ink end")
        y += 10 + 14 * len(names[name])
    picture.text(12, bottom + 36, what)
    return picture


def gained(record: Any, other: str = "CE") -> dict[str, Mark]:
    """Return what each row has above another, with its interval; of perplexities, below it."""
    found = {}
    for row in records.tests(record):
        if row not in (other, "teacher") and (gap := records.difference(record, row, other)):
            found[row] = gap
    if records.falls(record):
        found = {row: (-mean, -high, -low) for row, (mean, low, high) in found.items()}
    return found


def charts(folder: Path = RESULTS) -> dict[str, Drawing]:
    """Return a chart for each page of results that has numbers: from its JSON, or its table.

    The JSON is that of the page's name; its rows are shown less CE, paired by seed. The regime has
    none: what its page concludes is registered, and less CE is not among it.
    """
    found = {}
    for path in sorted(folder.glob("*.md")):
        if path.stem.startswith("regime_"):
            continue
        text, json_file = path.read_text("utf-8"), path.with_suffix(".json")
        record = json.loads(json_file.read_text("utf-8")) if json_file.is_file() else {}
        if marks := gained(record):
            unit = "perplexity below" if records.falls(record) else "points of accuracy above"
            found[path.stem] = chart(f"{unit} CE (95 % interval)", marks, zero=True)
            continue
        if marks := gained(record, RECOMMENDED):
            what = "points of accuracy above the recommended setting (95 % interval)"
            found[path.stem] = chart(what, marks, zero=True)
            continue
        column, part = PARTS.get(path.stem, (None, ""))
        head, numbers = table(text, column)
        if len(numbers) > 1 and path.stem != "long_tail":
            rows = {row: (m, m - sd, m + sd) for row, (m, sd) in numbers.items()}
            what = ", ".join(filter(None, ("test accuracy %" if column else head, part)))
            found[path.stem] = chart(f"{what} (± standard deviation)", rows)
    if (folder / "defaults.md").is_file():
        marks = {
            name: interval(values) for name, values in defaults.gaps(defaults.read(folder)).items()
        }
        found["defaults"] = chart("points of validation above the default", marks, zero=True)
    if (file := folder / "speed-torch.json").is_file():
        rows = json.loads(file.read_text("utf-8"))["rows"]
        ratios = {row["name"]: 3 * (row["ratio_min"],) for row in rows if row["shape"] == SHAPE}
        found["performance"] = chart(f"× LIMIT, PyTorch, {SHAPE} (rows, keys, classes)", ratios)
    return found


def gallery(folder: Path = RESULTS) -> str:
    """Return a card for each page of results: its title and its chart."""
    drawn, cards = charts(folder), []
    for path in sorted(folder.glob("*.md")):
        text, name = path.read_text("utf-8"), path.stem
        lines = [f"-   **[{title(text)}](../../benchmarks/results/{path.name})**"]
        if name in drawn or name == "long_tail":
            chart = f"charts/{name}" if name in drawn else class_imbalance.ASSET.stem
            lines.append(f"![{title(text)}](../assets/{chart}.svg)")
        cards.append("\n\n    ".join(lines))
    return '<div class="grid cards" markdown>\n\n' + "\n\n".join(cards) + "\n\n</div>"


def filled(page: str, name: str, content: str) -> str:
    """Return a page with what stands between its comments of that name replaced."""
    begin, end = f"<!-- begin {name}: python docs/committed.py -->", f"<!-- end {name} -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise ValueError(f"filled: the page needs the lines {begin!r} and {end!r}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def pages() -> dict[Path, str]:
    """Return each file that is made from the results, with what it should hold."""
    made = {CHARTS / f"{name}.svg": str(picture) for name, picture in charts().items()}
    uneven = json.loads(class_imbalance.RESULTS.read_text("utf-8"))
    made[class_imbalance.ASSET] = str(class_imbalance.picture(uneven))
    made[DOCS / "assets" / "gains.svg"] = str(gains.picture())
    for page, name, content in (
        (DOCS / "results/index.md", "gallery", gallery()),
        (RESULTS / "defaults.md", "validation", defaults.table(defaults.read(RESULTS))),
        (RESULTS / "long_tail.md", "tables", class_imbalance.tables(uneven)),
        (RESULTS / "performance.md", "measured", performance.tables(RESULTS)),
    ):
        made[page] = filled(page.read_text("utf-8"), name, content)
    return made


def pictures_of(page: Path) -> list[Path]:
    """Return the pictures whose names begin with the page's, and with no longer page's."""
    stems = sorted((path.stem for path in page.parent.glob("*.md")), key=len)
    return [
        path
        for path in sorted(page.parent.glob(f"{page.stem}*"))
        if path.suffix in PICTURES
        and [stem for stem in stems if path.stem.startswith(stem)][-1] == page.stem
    ]


def further_pictures(page: Path, text: str) -> str:
    """Return a section with the page's pictures that its text does not show, or ""."""
    further = [path.name for path in pictures_of(page) if f"]({path.name})" not in text]
    shown = [f"![{name}]({name})\n\n`{name}`" for name in further]
    return "\n\n".join(["\n\n## Pictures", *shown, ""]) if shown else ""


if __name__ == "__main__":
    CHARTS.mkdir(exist_ok=True)
    for path, text in pages().items():
        write(path, text)
    for path in set(CHARTS.glob("*.svg")) - set(pages()):
        path.unlink()

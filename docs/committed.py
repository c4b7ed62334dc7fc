"""Make tables, charts and the gallery of results from the committed files in benchmarks/results.

``python docs/committed.py`` writes them into the pages, between two comments, so that no number is
typed by hand; tests/docs/test_docs_made.py compares what is committed with what this makes.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

import class_imbalance  # noqa: E402
import defaults  # noqa: E402
import performance  # noqa: E402
from drawing import Drawing, write  # noqa: E402

RESULTS = DOCS.parent / "benchmarks" / "results"
CHARTS = DOCS / "assets" / "charts"
PICTURES = (".svg", ".png")
DEFAULT = "all (the default)"
RETUNED = "Ablation with one tuning seed"
LAST = "test % (last epoch)"
WITHOUT_UNIT = ("perplexity", "slope")
SPREAD = re.compile(r"([\d.]+) ± ([\d.]+)$")


class Spread(NamedTuple):
    """A mean and the sample standard deviation over seeds, in percent."""

    mean: float
    deviation: float


def title(text: str) -> str:
    """Return a page's first heading."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1] if found else ""


def section(text: str, heading: str) -> str:
    """Return what stands under a second-level heading, "" if there is none."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.M)
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


def tables(heading: str, folder: Path = RESULTS) -> dict[Path, dict[str, Spread]]:
    """Return that section's numbers of each accuracy file that has them."""
    files = {
        path: table(section(path.read_text("utf-8"), heading), LAST)[1]
        for path in sorted(folder.glob("accuracy_*.md"))
    }
    return {path: numbers for path, numbers in files.items() if numbers}


def differences(folder: Path = RESULTS) -> str:
    """Return one table of all ablations: what each switch did, in points, on each data set.

    After ± stands the root of the two variances over seeds; what is more than twice that is bold,
    unless the row at the learning rate of another tuning is nearer.
    """
    found, again = tables("Ablation", folder), tables(RETUNED, folder)
    found = {path: numbers for path, numbers in found.items() if DEFAULT in numbers}
    names = dict.fromkeys(name for numbers in found.values() for name in numbers if name != DEFAULT)
    heads = [
        f"[{title(path.read_text('utf-8')).removeprefix('Accuracy on ')}]"
        f"(../benchmarks/results/{path.name})"
        for path in found
    ]
    lines = [f"| setting | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    base = [f"{n[DEFAULT].mean:.2f} ± {n[DEFAULT].deviation:.2f} %" for n in found.values()]
    lines.append(f"| {DEFAULT} | {' | '.join(base)} |")
    for name in names:
        cells = [_difference(numbers, name, again.get(path, {})) for path, numbers in found.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(numbers: dict[str, Spread], name: str, again: dict[str, Spread]) -> str:
    if name not in numbers:
        return "–"
    default = numbers[DEFAULT]

    def less(other: Spread) -> tuple[float, float]:
        return other.mean - default.mean, math.hypot(other.deviation, default.deviation)

    difference, spread = less(numbers[name])
    cell = f"{difference:+.2f} ± {spread:.2f}"
    measured = (less(rows[name]) for rows in (numbers, again) if name in rows)
    return f"**{cell}**" if all(abs(d) > 2 * s for d, s in measured) else cell


def chart(what: str, numbers: dict[str, Spread]) -> Drawing:
    """Draw the numbers: a dot a method, and a line of ± one deviation."""
    names = {name: textwrap.wrap(name.replace("`", ""), 26) for name in numbers}
    low = math.floor(min(mean - deviation for mean, deviation in numbers.values()))
    high = max(low + 1, math.ceil(max(mean + deviation for mean, deviation in numbers.values())))
    left = 26 + 6.6 * max(len(line) for lines in names.values() for line in lines)
    right = left + 230
    bottom = 12 + sum(10 + 14 * len(lines) for lines in names.values())
    picture = Drawing(right + 28, bottom + 26, f"{what}: means and standard deviations")

    def x(value: float) -> float:
        return round(left + (right - left) * (value - low) / (high - low), 1)

    for tick in sorted({low, high, *range(low, high, max(1, math.ceil((high - low) / 4)))}):
        picture.line((x(tick), 8), (x(tick), bottom), "faint")
        if tick == high or high - tick >= (high - low) / 6:
            unit = "" if what in WITHOUT_UNIT else " %"
            picture.text(x(tick), bottom + 17, f"{tick}{unit}", "ink middle")
    y = 12.0
    for name, (mean, deviation) in numbers.items():
        middle = y + 5 + 7 * len(names[name])
        for i, line in enumerate(names[name]):
            picture.text(left - 12, y + 16 + 14 * i, line, "ink end")
        kind = "pull" if name.lower().startswith("mcld") else "other"
        picture.line((x(mean - deviation), middle), (x(mean + deviation), middle), kind)
        picture.dot(x(mean), middle, kind)
        y += 10 + 14 * len(names[name])
    return picture


def charts(folder: Path = RESULTS) -> dict[str, Drawing]:
    """Return a chart for each page of results that has a table of spreads and no picture."""
    found = {}
    for path in sorted(folder.glob("*.md")):
        text = path.read_text("utf-8")
        head, numbers = table(section(text, "Comparison") or text)
        if len(numbers) > 1 and not pictures_of(path):
            found[path.stem] = chart(head, numbers)
    return found


def gallery(folder: Path = RESULTS) -> str:
    """Return a card for each page of results: its title, and its first picture or a chart."""
    drawn, cards = charts(folder), []
    for path in sorted(folder.glob("*.md")):
        text, name = path.read_text("utf-8"), path.stem
        lines = [f"-   **[{title(text)}](../../benchmarks/results/{path.name})**"]
        if pictures := sorted(pictures_of(path), key=lambda picture: shown_at(picture, text)):
            lines.append(f"![{title(text)}](../../benchmarks/results/{pictures[0].name})")
        elif name in drawn:
            head, _ = table(section(text, "Comparison") or text)
            lines += [head, f"![{title(text)}](../assets/charts/{name}.svg)"]
        else:
            lines += re.findall(r"`python \S+\.py`", text)[:1]
        cards.append("\n\n    ".join(lines))
    return '<div class="grid cards" markdown>\n\n' + "\n\n".join(cards) + "\n\n</div>"


def shown_at(picture: Path, text: str) -> float:
    """Return where a page shows a picture, infinity if it does not."""
    at = text.find(f"]({picture.name})")
    return at if at >= 0 else math.inf


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
    for page, name, content in (
        (DOCS / "hyperparameters.md", "differences", differences()),
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

"""Read committed files of results, and make of them what pages show: tables, charts, the gallery.

A page asks for it in a comment, which docs/hooks.py replaces, so that no number is typed by hand.
"""

from __future__ import annotations

import html
import itertools
import math
import re
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
PICTURES = (".svg", ".png")
DEFAULT = "all (the default)"
LAST = "test % (last epoch)"
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

    After ± stands the root of the two variances over seeds; what is more than twice that is bold.
    """
    found = tables("Ablation", folder)
    found = {path: numbers for path, numbers in found.items() if DEFAULT in numbers}
    names = dict.fromkeys(name for numbers in found.values() for name in numbers if name != DEFAULT)
    heads = [
        f"[{title(path.read_text('utf-8')).removeprefix('Accuracy on ')}](results/{path.name})"
        for path in found
    ]
    lines = [f"| setting | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    base = [f"{n[DEFAULT].mean:.2f} ± {n[DEFAULT].deviation:.2f} %" for n in found.values()]
    lines.append(f"| {DEFAULT} | {' | '.join(base)} |")
    for name in names:
        cells = [_difference(numbers, name) for numbers in found.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(numbers: dict[str, Spread], name: str) -> str:
    if name not in numbers:
        return "–"
    other, default = numbers[name], numbers[DEFAULT]
    less = other.mean - default.mean
    spread = math.hypot(other.deviation, default.deviation)
    cell = f"{less:+.2f} ± {spread:.2f}"
    return f"**{cell}**" if abs(less) > 2 * spread else cell


def chart(what: str, numbers: dict[str, Spread]) -> str:
    """Return a picture of the numbers as inline SVG: a dot a method, a line of ± one deviation."""
    low = math.floor(min(mean - deviation for mean, deviation in numbers.values()))
    high = max(low + 1, math.ceil(max(mean + deviation for mean, deviation in numbers.values())))
    left, right, step = min(200, 20 + 6 * max(map(len, numbers))), 330, 22
    bottom = step * len(numbers) + 8

    def x(value: float) -> float:
        return round(left + (right - left) * (value - low) / (high - low), 1)

    parts = [
        f'<svg class="chart" viewBox="0 0 350 {bottom + 22}" role="img">'
        f"<title>{html.escape(what)}: means and standard deviations</title>"
    ]
    ticks = sorted({low, high, *range(low, high, max(1, math.ceil((high - low) / 4)))})
    for tick in ticks:
        parts.append(
            f'<line class="grid-line" x1="{x(tick)}" x2="{x(tick)}" y1="0" y2="{bottom}"/>'
        )
        if tick == high or high - tick >= (high - low) / 6:
            parts.append(f'<text x="{x(tick)}" y="{bottom + 15}" class="tick">{tick} %</text>')
    for i, (name, (mean, deviation)) in enumerate(numbers.items()):
        y = step * i + 15
        mark = "ours" if name.lower().startswith("mcld") else "other"
        parts.append(
            f'<text x="{left - 10}" y="{y + 4}" class="label">{html.escape(name)}</text>'
            f'<g class="{mark}"><line x1="{x(mean - deviation)}" x2="{x(mean + deviation)}" '
            f'y1="{y}" y2="{y}"/><circle cx="{x(mean)}" cy="{y}" r="4"/></g>'
        )
    return "".join([*parts, "</svg>"])


def gallery(folder: Path = RESULTS) -> str:
    """Return a card for each page of results: its title, and its first picture or a chart."""
    cards = []
    for path in sorted(folder.glob("*.md")):
        text = path.read_text("utf-8")
        lines = [f"-   **[{title(text)}]({path.name})**"]
        pictures = pictures_of(path)
        head, numbers = table(section(text, "Comparison") or text)
        if pictures:
            lines.append(f"![{path.stem}]({pictures[0].name})")
        elif len(numbers) > 1:
            lines += [head, chart(head, numbers)]
        else:
            lines += re.findall(r"`python \S+\.py`", text)[:1]
        cards.append("\n\n    ".join(lines))
    return '<div class="grid cards" markdown>\n\n' + "\n\n".join(cards) + "\n\n</div>"


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

"""What the site needs beyond docs/: pages from the rest of the repository, formulas that are drawn.

MkDocs calls the ``on_…`` functions. Pages are written so that their links work in the repository;
where a page stands elsewhere on the site, its links are moved with it.
"""

from __future__ import annotations

import html
import importlib.util
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import committed  # noqa: E402

RESULTS = "benchmarks/results"
LINK = re.compile(r"(?P<label>!?\[[^\]]*\])\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>([.,;:)]*)', re.DOTALL
)
FROM_NETWORK = re.compile(
    r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//"""
)
CELL = re.compile(r"<td\b[^>]*>.*?</td>", re.DOTALL)
CODE = re.compile(r"<code>[^<]+</code>")
TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
HEAD = re.compile(r"<th\b[^>]*>(.*?)</th>", re.DOTALL)
ROW = re.compile(r"<tr>.*?</tr>", re.DOTALL)
TAG = re.compile(r"<[^>]+>")
FEW_COLUMNS = 3
BREAK = re.compile(r"(?<=[^\W\d][_./=(])(?=[\w\"])|(?<=[a-z])(?=[A-Z])")
MATH_FONT = "STIXTwoMath-Regular.ttf"


def pages_from_elsewhere() -> dict[str, str]:
    """Return where files outside docs/ stand on the site: path in the repository → site path."""
    pages = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
    for path in sorted((ROOT / RESULTS).iterdir()):
        if path.suffix in (".md", *committed.PICTURES):
            pages[f"{RESULTS}/{path.name}"] = f"results/{path.name}"
    return pages


def on_config(config: Any) -> None:
    """Put the pages of each ``folder/*`` into the navigation."""
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")]
    pages += pages_from_elsewhere().values()

    def expanded(entries: list[Any]) -> list[Any]:
        result: list[Any] = []
        for entry in entries:
            if isinstance(entry, dict):
                ((title, value),) = entry.items()
                is_section = isinstance(value, list) or value.endswith("/*")
                value = [value] if isinstance(value, str) and is_section else value
                result.append({title: expanded(value) if is_section else value})
            elif entry.endswith("/*"):
                folder = entry.removesuffix("*")
                found = [p for p in pages if p.startswith(folder) and p.endswith(".md")]
                result += sorted(found, key=lambda p: (not p.endswith("/index.md"), p))
            else:
                result.append(entry)
        return result

    config.nav = expanded(config.nav)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside docs/, and the font of the formulas from its package."""
    for source, uri in pages_from_elsewhere().items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, f"assets/{MATH_FONT}", abs_src_path=str(math_font())))
    return files


def math_font() -> Path:
    """Return a font with the table MATH, by which browsers stretch sums and brackets."""
    package = importlib.util.find_spec("ziamath")
    if package is None or package.origin is None:
        raise PluginError("formulas need a font that comes with ziamath: pip install ziamath")
    return Path(package.origin).parent / "fonts" / MATH_FONT


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Move the links of a page, and add the pictures of a page of results."""
    moved = pages_from_elsewhere()
    sources = {uri: source for source, uri in moved.items()}
    uri = page.file.src_uri
    source = sources.get(uri, f"docs/{uri}")

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["target"]))
        if target in moved:
            target = moved[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif (ROOT / target).exists():  # a file that is not a page is named, not linked
            return match["label"][1:-1]
        else:
            return match[0]  # and reported by MkDocs, as any broken link
        target = posixpath.relpath(target, posixpath.dirname(uri) or ".")
        return f"{match['label']}({target}{match['anchor'] or ''})"

    if source in sources.values():
        markdown += committed.further_pictures(ROOT / source, markdown)
    return LINK.sub(link, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Turn TeX into MathML, which browsers draw without a script."""

    def mathml(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        formula = convert(html.unescape(match[2]), display=display)
        return f'<span class="formula">{formula}{match[3]}</span>' if match[3] else formula

    return FORMULA.sub(mathml, content)


def on_post_page(output: str, **_: Any) -> str:
    """Prepare tables for a phone; the style makes use of it there alone.

    Code in a cell may break between its words. In a table of many columns each cell knows the head
    of its column, so that a row can be a list.
    """

    def breakable(code: re.Match[str]) -> str:
        return "<code>" + BREAK.sub("<wbr>", code[0].removeprefix("<code>"))

    output = CELL.sub(lambda cell: CODE.sub(breakable, cell[0]), output)
    return TABLE.sub(lambda table: with_labels(table[0]), output)


def with_labels(table: str) -> str:
    """Return a table of more than three columns with the head of its column in each cell."""
    heads = [html.unescape(TAG.sub("", head)).strip() for head in HEAD.findall(table)]
    if len(heads) <= FEW_COLUMNS:
        return table

    def row(match: re.Match[str]) -> str:
        labels = iter(heads)
        return re.sub(
            "<td", lambda _: f'<td data-label="{html.escape(next(labels, ""))}"', match[0]
        )

    return ROW.sub(row, table.replace("<table", "<table data-wide", 1))


def on_post_build(config: Any) -> None:
    """Refuse a page that would load something from the network."""
    for page in Path(config.site_dir).rglob("*.html"):
        if found := FROM_NETWORK.search(page.read_text("utf-8")):
            raise PluginError(f"{page.name} loads from the network: {found[0]}")

"""What the pages claim: each number stands in a file of results, each difference is computed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_docs_made import load

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "choosing.md"
LINK = re.compile(r"\]\(((?:\.\./)*benchmarks/results/[^)#]+)")
NUMBER = re.compile(r"\d+\.\d+ ± \d+\.\d+")
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split("|")]
    for line in PAGE.read_text("utf-8").splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| your case"))
]
CLAIMS = tomllib.loads((ROOT / "docs" / "evidence.toml").read_text("utf-8"))["claim"]
ENTRIES = [entry for claim in CLAIMS for entry in claim["entries"]]
records = load("records")


def words(text: str) -> str:
    """Return a text with single spaces."""
    return " ".join(text.split())


@pytest.mark.parametrize(("case", "advice", "evidence"), ROWS, ids=[row[0] for row in ROWS])
def test_each_row_has_evidence_or_says_that_there_is_none(
    case: str, advice: str, evidence: str
) -> None:
    assert advice
    assert LINK.search(evidence) or "measured yet" in evidence
    assert not NUMBER.search(evidence)  # differences with intervals, no means to compare by eye


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim["text"][:50] for claim in CLAIMS])
def test_a_claim_stands_in_its_pages(claim: dict[str, Any]) -> None:
    for page in claim["pages"]:
        assert words(claim["text"]) in words((ROOT / page).read_text("utf-8")), page
    for page in ("README.md", "docs/index.md"):
        assert claim.get("alt", "") in (ROOT / page).read_text("utf-8"), page
    assert claim["entries"]


@pytest.mark.parametrize(("file", "row", "other", "interval", "says"), ENTRIES)
def test_an_entry_is_what_its_file_gives(
    file: str, row: str, other: str, interval: str, says: str
) -> None:
    mean, low, high = records.difference(records.read(file), row, other)
    assert f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" == interval
    assert says == ("above" if low > 0 else "below" if high < 0 else "level")


PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "docs" / "guides").glob("*.md"),
]
INTERVAL = re.compile(r"\(([−+-]?\d+\.\d+) to ([−+-]?\d+\.\d+)\)")


MADE = re.compile(r"<!-- begin (\w+):.*?<!-- end \1 -->", re.DOTALL)  # by docs/committed.py


def rounded(spread: str, others: list[str]) -> bool:
    """Whether a mean ± deviation is one of the others, or one of them with fewer digits."""
    places = [len(number.partition(".")[2]) for number in spread.split(" ± ")]
    return any(
        spread
        == " ± ".join(f"{float(x):.{n}f}" for x, n in zip(o.split(" ± "), places, strict=True))
        for o in others
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_spread_or_an_interval_of_a_page_is_in_a_file_that_it_links_to(page: Path) -> None:
    """An interval, without its signs, in a linked page or among the entries."""
    text = MADE.sub("", page.read_text("utf-8"))
    files = [page.parent / link for link in LINK.findall(text) if link.endswith(".md")]
    linked = "".join(file.read_text("utf-8") for file in files)
    spreads = NUMBER.findall(linked)
    assert [number for number in NUMBER.findall(text) if not rounded(number, spreads)] == []
    intervals = [*INTERVAL.findall(linked), *INTERVAL.findall(" ".join(e[3] for e in ENTRIES))]
    known = {tuple(sorted(number.lstrip("−+-") for number in pair)) for pair in intervals}
    wanted = {tuple(sorted(number.lstrip("−+-") for number in p)) for p in INTERVAL.findall(text)}
    assert wanted <= known

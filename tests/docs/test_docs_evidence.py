"""What the pages claim: each number stands in a file of results, each difference is computed."""

from __future__ import annotations

import json
import math
import re
import statistics
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
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
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
WORDS = {
    "CE": "ce",
    "MCLD": "mcld",
    "MCLD + CE": "mcld-ce",
    "MCLD + CE, no ramp": "mcld-ce:category_warmup=0",
    "CE + sample-wise": "mcld-ce:weight_instance=0,weight_category=0",
    "KD": "kd",
    "KD without CE": "kd:weight=1,weight_ce=0",
    "DKD": "dkd",
    "NKD": "nkd",
}
"""A row's name on its page → in the files of version 0.2."""
Seeds = dict[str, float]


def missing(evidence: str) -> list[str]:
    """Return the numbers of a cell that are in none of the files that it links to."""
    text = "".join((PAGE.parent / link).read_text("utf-8") for link in LINK.findall(evidence))
    return [number for number in NUMBER.findall(evidence) if number not in text]


def scores(record: Any, row: str) -> Seeds:
    """Return a row's test scores by seed, in percent, of any file of results.

    Args:
        record: of `benchmarks.compare` ("tests" by name|seed|row), of the regime
            (test|row|seed), of language models (seed|row: perplexity), of Tiny-ImageNet ("tests" by
            row|rate|constant|seed), of a
            comparison of version 0.2 ("runs") or of wrong teachers ("rows").
        row: its name on the page; a set of several tables, and a column other than the
            balanced accuracy, stand before and behind it: ``udhr|50|CE|tail``; wrong
            teachers: ``40 %|mcld``.
    """
    name, *column = row.rsplit("|", 1) if row.count("|") > 2 else (row,)
    key = column[0] if column else "balanced"
    found: Seeds = {}
    if "runs" in record:
        for run in record["runs"]:
            if run["method"] == WORDS.get(row, row):
                last = run.get("test_last")
                found[str(run["seed"])] = run["accuracy %"] if last is None else 100 * last
    elif "rows" in record:
        for run in record["rows"]:
            if f"{run['teacher']}|{run['method']}" == row:
                found[str(run["seed"])] = 100 * run["accuracy"]
    elif "tests" in record:
        for text, value in record["tests"].items():
            words = text.split("|")
            if isinstance(value, float) and words[0] == row:
                found[words[3]] = value
            elif isinstance(value, dict) and [*words[:-2], words[-1]] == name.split("|"):
                found[words[-2]] = value.get(key, value.get("accuracy"))
    else:
        for text, value in record.items():
            words = text.split("|")
            if words[0] == "test" and words[1] == row:
                found[words[2]] = value["test"]
            elif words[1:] == [row] and len(words[0]) < 3:  # a tuning seed has three digits
                found[words[0]] = value["perplexity"]
    return found


def difference(one: Seeds, other: Seeds) -> tuple[float, float, float]:
    """Return the mean of the differences of equal seeds, and its 95 % interval (Student's t)."""
    gaps = [one[seed] - other[seed] for seed in one if seed in other]
    mean = statistics.fmean(gaps)
    half = T_975[min(len(gaps), 10)] * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return mean, mean - half, mean + half


def words(text: str) -> str:
    """Return a text with single spaces."""
    return " ".join(text.split())


@pytest.mark.parametrize(("case", "advice", "evidence"), ROWS, ids=[row[0] for row in ROWS])
def test_each_row_has_evidence_or_says_that_there_is_none(
    case: str, advice: str, evidence: str
) -> None:
    assert advice
    assert missing(evidence) == []
    assert NUMBER.search(evidence) or "measured yet" in evidence


def test_a_number_from_nowhere_is_seen() -> None:
    digits = "[digits](../benchmarks/results/comparison_digits.md): NKD"
    assert missing(f"{digits} 97.59 ± 0.62, KD 99.99 ± 0.01") == ["99.99 ± 0.01"]


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim["text"][:50] for claim in CLAIMS])
def test_a_claim_stands_in_its_pages(claim: dict[str, Any]) -> None:
    for page in claim["pages"]:
        assert words(claim["text"]) in words((ROOT / page).read_text("utf-8")), page
    assert claim["entries"]


@pytest.mark.parametrize(("file", "row", "other", "interval", "says"), ENTRIES)
def test_an_entry_is_what_its_file_gives(
    file: str, row: str, other: str, interval: str, says: str
) -> None:
    record = json.loads((RESULTS / file).read_text("utf-8"))
    mean, low, high = difference(scores(record, row), scores(record, other))
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

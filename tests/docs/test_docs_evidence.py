"""The page that helps to choose: each number stands in the file that its row links to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "choosing.md"
LINK = re.compile(r"\]\((\.\./benchmarks/results/[^)#]+)")
NUMBER = re.compile(r"\d+\.\d+ ± \d+\.\d+")
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split("|")]
    for line in PAGE.read_text("utf-8").splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| your case"))
]


def missing(evidence: str) -> list[str]:
    """Return the numbers of a cell that are in none of the files that it links to."""
    text = "".join((PAGE.parent / link).read_text("utf-8") for link in LINK.findall(evidence))
    return [number for number in NUMBER.findall(evidence) if number not in text]


@pytest.mark.parametrize(("case", "advice", "evidence"), ROWS, ids=[row[0] for row in ROWS])
def test_each_row_has_evidence_or_says_that_there_is_none(
    case: str, advice: str, evidence: str
) -> None:
    assert advice
    assert missing(evidence) == []
    assert NUMBER.search(evidence) or "measured yet" in evidence


def test_a_number_from_nowhere_is_seen() -> None:
    digits = "[digits](../benchmarks/results/accuracy_digits.md): MCLD"
    assert missing(f"{digits} 97.51 ± 0.48, KD 99.99 ± 0.01") == ["99.99 ± 0.01"]

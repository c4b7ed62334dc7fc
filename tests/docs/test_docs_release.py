"""What names the version and the authors says the same everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import mcld_core

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CITATION = (ROOT / "CITATION.cff").read_text("utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")


def cited(field: str) -> str:
    """Return a field of the software itself, which stands without indentation."""
    (found,) = re.findall(rf"^{field}: (.+)$", CITATION, re.MULTILINE)
    return str(found)


def test_the_citation_is_of_this_version() -> None:
    assert cited("version") == mcld_core.__version__
    assert cited("license") == PROJECT["license"]
    software = CITATION.split("references:")[0]
    assert [f"  - name: {author['name']}" for author in PROJECT["authors"]] == [
        line for line in software.splitlines() if line.startswith("  - name:")
    ]
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert all(author["name"] in licence for author in PROJECT["authors"])


def test_the_readme_says_it_in_its_third_line() -> None:
    line = (ROOT / "README.md").read_text("utf-8").splitlines()[2]
    python = PROJECT["requires-python"].replace(">=", "≥ ")
    assert (
        line == f"Version {mcld_core.__version__} · Python {python} · {PROJECT['license']} licence"
    )


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    releases = re.findall(r"^## (\d\S*) - (\d{4}-\d\d-\d\d)$", CHANGELOG, re.MULTILINE)
    assert releases[0] == (mcld_core.__version__, cited("date-released"))

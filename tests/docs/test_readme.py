"""The README's code, as printed: each Python block of a tested backend runs, its one-liner in all.

A block says what it needs in the line above its fence: `<!-- test: torch -->`, or numpy,
tensorflow, jax; keras (run by tests/keras), export (by tests/export); `skip` for a block
that is no program of its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frameworks import KNOWN, REQUESTED
from tests.tolerance import assert_value

README = Path(__file__).resolve().parents[2] / "README.md"
TEXT = README.read_text("utf-8")
BLOCK = re.compile(r"(?:<!-- test: (\S+) -->\n)?```python\n(.*?)```", re.DOTALL)
BLOCKS = [(match[1], match[2]) for match in BLOCK.finditer(TEXT)]
ONE_LINER = re.compile(r"^(?:MCLD_BACKEND=(\w+) )?(python -c .+)$", re.MULTILINE)
PRINTED = [(match[1], match[2]) for match in ONE_LINER.finditer(TEXT)]
ONE_LINERS = [(name, PRINTED[0][1]) for name in KNOWN if name != "keras"]  # by MCLD_BACKEND


LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]+)")


def run(arguments: list[str], folder: Path, **environment: str) -> str:
    """Run Python away from the repository; return what it printed."""
    clean = {name: value for name, value in os.environ.items() if name != "MCLD_BACKEND"}
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_every_python_block_says_what_it_needs() -> None:
    assert len(BLOCKS) == TEXT.count("```python")
    needs = [need for need, _ in BLOCKS]
    assert set(needs) <= {*KNOWN, "export", "skip"}, f"a block without a known marker: {needs}"
    assert {"torch", "keras", "export"} <= set(needs)


@pytest.mark.parametrize("backend_name", REQUESTED)
def test_python_blocks_run(backend_name: str, tmp_path: Path) -> None:
    for need, code in BLOCKS:
        if need == backend_name:
            run(["-c", code], tmp_path)


def test_the_readme_has_one_command_that_prints_a_loss() -> None:
    assert [name for name, _ in PRINTED] == ["torch"]
    assert {name for name, _ in ONE_LINERS} == {"numpy", "torch", "tensorflow", "jax"}


def test_it_prints_an_equal_loss_with_each_backend(tmp_path: Path) -> None:
    printed = {}
    for name, command in ONE_LINERS:
        if name == "numpy" or name in REQUESTED:
            _, *arguments = shlex.split(command)
            printed[name] = run(
                arguments, tmp_path, **({} if name == "numpy" else {"MCLD_BACKEND": name})
            )
    reference = float(printed.pop("numpy").split()[-1])
    assert reference > 0
    for text in printed.values():
        assert_value(float(text.split()[-1]), reference, "float32")


def test_it_stays_short() -> None:
    assert TEXT.count("\n") <= 150


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_is_linked_exists(page: str) -> None:
    links = LINK.findall((README.parent / page).read_text("utf-8"))
    assert [link for link in links if not (README.parent / link).exists()] == []
    assert links or page == "CHANGELOG.md"


def test_it_says_early_that_the_formulas_are_a_reconstruction() -> None:
    head = "\n".join(TEXT.splitlines()[:12])
    assert "reconstruction" in head
    assert "distillation loss" in head.lower()
    assert "https://arxiv.org/abs/2411.10693" in head


def test_its_pictures_exist() -> None:
    pictures = re.findall(r'src="([^"]+)"', TEXT)
    assert pictures
    assert [path for path in pictures if not (README.parent / path).is_file()] == []


def test_sizes_and_seconds_are_the_measured_ones() -> None:
    found = json.loads((README.parent / "benchmarks/results/install.json").read_text("utf-8"))
    table = TEXT.split("## Install")[1].split("This shows")[0]
    assert re.findall(r"\| ([\d.]+) GB \|", table) == [f"{row['mb'] / 1e3:.1f}" for row in found]
    seconds = [str(row["seconds"]) for row in found if "seconds" in row]
    assert re.findall(r"\| (\d+) s \|", table) == seconds
    names = re.findall(r"'\.\[([\w,]+)\]'", table)
    assert names == [row["extras"] for row in found if "+cpu" not in row["build"]]


def test_the_cost_is_the_measured_one() -> None:
    results = README.parent / "benchmarks" / "results"
    rows = json.loads((results / "speed-torch-tiny.json").read_text("utf-8"))["rows"]
    shape = "64,64,10"
    found = {row["name"]: 1e3 * row["seconds_min"] for row in rows if row["shape"] == shape}
    part = TEXT.split("**Cost**")[1].split("\n\n")[0]
    for pattern, name in (
        (r"take \[([\d.]+\d) ms\]", "mcld_loss"),
        (r"compiled ([\d.]+\d)", "mcld_loss, torch.compile"),
        (r"cross-entropy takes ([\d.]+\d)", "cross-entropy"),
    ):
        assert re.findall(pattern, part) == [f"{found[name]:.2f}"], name

"""The guide's code, as printed, runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "keras.md"
TEXT = GUIDE.read_text("utf-8")
BLOCKS = re.findall(r"<!-- test: keras -->\n```python\n(.*?)```", TEXT, re.DOTALL)


def test_every_block_is_tested() -> None:
    assert len(BLOCKS) == TEXT.count("```python") > 0


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number: int) -> None:
    exec(compile(BLOCKS[number], f"{GUIDE.name} block {number}", "exec"), {"__name__": "guide"})

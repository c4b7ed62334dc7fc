"""The code of the guide and of the README for Keras, as printed, runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "keras.md").read_text("utf-8")
TEXT = GUIDE + (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- test: keras -->\n```python\n(.*?)```", TEXT, re.DOTALL)


def test_every_block_is_tested() -> None:
    assert len(BLOCKS) == GUIDE.count("```python") + 1
    assert "val_accuracy" in GUIDE


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number: int) -> None:
    guide: dict[str, Any] = {"__name__": "guide"}
    exec(compile(BLOCKS[number], f"block {number}", "exec"), guide)
    if "val_accuracy" in BLOCKS[number]:  # its student learns, as the text says
        first, *_, last = guide["accuracies"]
        assert first < 0.8 < 0.9 < last

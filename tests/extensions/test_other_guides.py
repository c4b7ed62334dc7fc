"""The code of the guides to unreliable teachers and to several modalities runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.frameworks import REQUESTED

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
NAMES = ("teachers", "multimodal")
TEXTS = {name: (GUIDES / f"{name}.md").read_text("utf-8") for name in NAMES}
BLOCK = re.compile(r"<!-- test: torch -->\n```python\n(.*?)```", re.DOTALL)
CODE = [(name, code) for name, text in TEXTS.items() for code in BLOCK.findall(text)]


def test_every_block_is_tested() -> None:
    assert len(CODE) == sum(text.count("```python") for text in TEXTS.values()) > 0


if "torch" in REQUESTED:

    @pytest.mark.parametrize("code", [code for _, code in CODE], ids=[name for name, _ in CODE])
    def test_blocks_run(code: str) -> None:
        exec(code, {"__name__": "__main__"})

"""The ten lines for each trainer run, where the trainer can be installed."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
GUIDE = "training"
TEXT = (ROOT / "docs" / "guides" / f"{GUIDE}.md").read_text("utf-8")
BLOCKS = re.findall(r"(?:<!-- needs: (\w+) -->\n)?```python\n(.*?)```", TEXT, re.DOTALL)


def test_every_block_but_the_plain_loop_says_what_it_needs() -> None:
    assert [need for need, _ in BLOCKS] == [
        "", "", "timm", "timm", "transformers", "keras", "flax"
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("plain_jax")
@pytest.mark.parametrize("need", ["", "timm", "transformers", "keras", "flax"])
def test_a_trainer_of_the_guide_trains(
    need: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        importlib.import_module(need or "torch")
    except (ImportError, RuntimeError) as error:
        if need != "timm":
            raise
        pytest.skip(f"timm needs a torchvision that fits the pinned torch: {error}")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"__name__": "guide"}
    for what, block in BLOCKS:
        if what == need:
            exec(compile(block, f"training.md: {need}", "exec"), found)
    if "loss" in found:
        assert np.isfinite(float(found["loss"]))

"""The code of the guides to text, to time series and to self-distillation runs."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from tests.frameworks import REQUESTED

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
NAMES = ("nlp", "language_models", "timeseries", "self_distillation")
BLOCK = re.compile(r"<!-- test: (torch|jax) -->\n```python\n(.*?)```", re.DOTALL)
CODE = [
    (name, framework, code)
    for name in NAMES
    for framework, code in BLOCK.findall((GUIDES / f"{name}.md").read_text("utf-8"))
]
RUN = [(f"{name}-{framework}", code) for name, framework, code in CODE if framework in REQUESTED]


def test_every_block_is_tested() -> None:
    texts = [(GUIDES / f"{name}.md").read_text("utf-8") for name in NAMES]
    assert len(CODE) == sum(text.count("```python") for text in texts) > 0


if RUN:

    @pytest.mark.parametrize("code", [code for _, code in RUN], ids=[name for name, _ in RUN])
    def test_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with _usual_promotion():
            exec(code, {"__name__": "__main__"})


def _usual_promotion() -> AbstractContextManager[None]:
    """JAX as users have it: optax' Adam itself mixes int and float, which tests forbid."""
    if "jax" not in REQUESTED:
        return nullcontext()
    import jax

    return jax.numpy_dtype_promotion("standard")

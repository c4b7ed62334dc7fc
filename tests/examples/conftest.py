"""The examples are scripts: their folder is on the path as when one of them runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))


@pytest.fixture
def no_export(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX takes seconds: only tests with "exports" in their names write it."""
    if "exports" not in request.node.name:
        monkeypatch.setattr("common.finish", lambda *rest: None)


@pytest.fixture
def plain_jax() -> Iterator[None]:
    """JAX's own defaults, as a user has them, whatever other tests set."""
    import jax

    names = ("jax_enable_x64", "jax_numpy_rank_promotion", "jax_numpy_dtype_promotion")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (False, "allow", "standard"), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)

"""The examples in the docstrings, as printed."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import mcld_core
from tests.frameworks import REQUESTED

PACKAGES = {
    "mcld_core": Path(mcld_core.__path__[0]),
    "mcld_core.extensions": Path(importlib.import_module("mcld_core.extensions").__path__[0]),
}
BACKENDS = Path(importlib.import_module("mcld_core.backends").__path__[0])
PACKAGES |= {f"mcld_core.backends.{name}": BACKENDS / name for name in REQUESTED}


def modules_with_examples() -> list[str]:
    """Return the modules of this run whose source holds an example."""
    return sorted(
        f"{package}.{path.stem}"
        for package, folder in PACKAGES.items()
        for path in folder.glob("*.py")
        if ">>> " in path.read_text("utf-8")
    )


def test_there_are_examples() -> None:
    assert {"mcld_core.losses", "mcld_core.baselines"} <= set(modules_with_examples())


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_print_what_they_say(name: str) -> None:
    tried = doctest.testmod(importlib.import_module(name))
    assert tried.attempted > 0
    assert tried.failed == 0

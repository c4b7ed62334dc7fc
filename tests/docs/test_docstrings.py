"""The examples in the docstrings, as printed."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import mcld_core
from tests.frameworks import KNOWN, REQUESTED

PACKAGES = {
    "mcld_core": Path(mcld_core.__path__[0]),
    "mcld_core.extensions": Path(importlib.import_module("mcld_core.extensions").__path__[0]),
}
PACKAGES["mcld_core.backends"] = Path(importlib.import_module("mcld_core.backends").__path__[0])
# Modules of the frameworks that this run does not test, and folders that are listed themselves.
NOT_HERE = {"backends", "extensions", *(name for name in KNOWN if name not in REQUESTED)}


def modules_with_examples() -> list[str]:
    """Return the modules of this run whose source holds an example."""
    found = set()
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if ">>> " in path.read_text("utf-8") and not NOT_HERE & set(parts):
                found.add(".".join((package, *parts)).removesuffix(".__init__"))
    return sorted(found)


def test_there_are_examples() -> None:
    assert {"mcld_core.losses", "mcld_core.logits", "mcld_core.baselines.kd"} <= set(
        modules_with_examples()
    )


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_print_what_they_say(name: str) -> None:
    tried = doctest.testmod(importlib.import_module(name))
    assert tried.attempted > 0
    assert tried.failed == 0

"""These tests build the site: they are collected where its tools are installed (`nox -s docs`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

if not all(map(importlib.util.find_spec, ("mkdocs", "material", "mkdocstrings"))):
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py")]

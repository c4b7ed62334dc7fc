"""The site is built and looked at where its tools are installed (`nox -s docs`)."""

from __future__ import annotations

import importlib.util

TOOLS = ("mkdocs", "material", "mkdocstrings", "ziamath", "playwright")
if not all(map(importlib.util.find_spec, TOOLS)):
    collect_ignore = ["test_site.py"]

"""The site is built and looked at where its tools are installed (`nox -s docs`)."""

from __future__ import annotations

import importlib.util

if not all(map(importlib.util.find_spec, ("mkdocs", "material", "mkdocstrings"))):
    collect_ignore = ["test_site.py"]

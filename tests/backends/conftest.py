"""The tests of a framework are collected where this run tests it: they import it at the top."""

from __future__ import annotations

from tests.frameworks import KNOWN, REQUESTED

collect_ignore = [name for name in KNOWN if name not in REQUESTED]

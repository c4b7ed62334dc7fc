"""How the site reads docstrings: ``Example:`` is a section of code, as ``Examples:`` is."""

from __future__ import annotations

from typing import Any

import griffe


class SingularExample(griffe.Extension):
    """Rename the section for the parser of Google-style docstrings, which knows the plural."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename it in one docstring."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")

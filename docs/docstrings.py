"""How the site reads docstrings: ``Example:`` is a section of code, `mcld_core.name` a link."""

from __future__ import annotations

import re
from typing import Any

import griffe

NAME = re.compile(r"(?<!`)`(mcld_core(?:\.\w+)+)`(?!`)")


class SiteDocstrings(griffe.Extension):
    """Rewrite them for the parser of Google-style docstrings and for the links of the site."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring: the parser knows "Examples" in the plural alone."""
        if obj.docstring:
            text = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
            obj.docstring.value = NAME.sub(r"[`\1`][\1]", text)

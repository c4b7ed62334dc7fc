"""In a clone the folders ``backends`` and ``extensions`` lie beside this package, not inside it.

An installed package has them inside, where Python finds them by itself. From the root of a clone
the source folder ``mcld_core`` hides the installed package, and Python would find neither. This
finder looks for these two beside the package, and for nothing else: whatever more lies there, such
as ``tests``, is not a part of ``mcld_core``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

BESIDE = ("mcld_core.backends", "mcld_core.extensions")


class FinderBeside:
    """Finds ``mcld_core.backends`` and ``mcld_core.extensions`` beside the folder ``mcld_core``."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        """Return where the module is; None for every other one, and where it lies inside."""
        if name not in BESIDE or not path:
            return None
        package = Path(path[0])
        if (package / name.rpartition(".")[2] / "__init__.py").is_file():
            return None
        return PathFinder.find_spec(name, [str(package.parent)])


# First: an editable install of another clone has a finder too, which would mix the two.
sys.meta_path.insert(0, FinderBeside)

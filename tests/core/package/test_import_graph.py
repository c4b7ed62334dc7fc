"""The layers of the library: imports run downwards only, and in no circle.

The edges are the imports that modules write, inside of functions too; those of packages'
``__init__``, which only gather names, do not count.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = {
    "mcld_core": "mcld_core",
    "backends": "mcld_core.backends",
    "extensions": "mcld_core.extensions",
}
ADAPTERS = tuple(f"mcld_core.{name}" for name in ("torch", "tensorflow", "jax", "keras"))
# From the cellar up: a module may import what stands in its own line or in one above it.
LAYERS = (
    ("mcld_core.typing",),
    ("mcld_core.backends",),
    ("mcld_core.files", "mcld_core.arguments"),
    ("mcld_core.config", "mcld_core.formulas"),
    ("mcld_core",),
    (*ADAPTERS, "mcld_core.extensions"),
    ("mcld_core.__main__",),
)


def modules() -> dict[str, Path]:
    """Return every module of the library by its name."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


def imports_of(source: str, known: set[str]) -> set[str]:
    """Return the modules of the library that a module's text imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in names]
        else:
            continue
        found |= {name for name in names if name in known}
    return found


MODULES = modules()
GRAPH = {
    name: imports_of(path.read_text("utf-8"), set(MODULES))
    for name, path in MODULES.items()
    if path.name != "__init__.py"
}


def layer_of(name: str) -> int:
    """Return the layer of a module: that of the longest name that it begins with."""
    best, found = -1, -1
    for number, layer in enumerate(LAYERS):
        for prefix in layer:
            if (name == prefix or name.startswith(prefix + ".")) and len(prefix) > best:
                best, found = len(prefix), number
    return found


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_imports_run_downwards(name: str) -> None:
    upwards = {other for other in GRAPH[name] if layer_of(other) > layer_of(name)}
    assert not upwards


# What each folder may import of the library; `None`: the names of `mcld_core` itself.
MAY_IMPORT = {
    "backends": ("mcld_core.typing", "mcld_core.backends"),
    "extensions": (
        None,
        "mcld_core.typing",
        "mcld_core.backends",
        "mcld_core.arguments",
        "mcld_core.extensions",
    ),
    "examples": (None, *ADAPTERS, "mcld_core.extensions"),
    "benchmarks": (None, *ADAPTERS, "mcld_core.extensions"),
}


def foreign(path: Path) -> set[str]:
    """Return what a file imports of the library and its folder may not."""
    folder = path.relative_to(ROOT).parts[0]
    may = MAY_IMPORT[folder]
    if folder == "extensions" and "nlp" in path.parts:  # what runs in blocks over a vocabulary
        may += ("mcld_core.formulas",)
    known = set(MODULES)
    return {
        name
        for name in imports_of(path.read_text("utf-8"), known)
        if not (name == "mcld_core" and None in may)
        and not any(name == one or name.startswith(f"{one}.") for one in may if one)
    }


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_each_folder_imports_what_it_may(folder: str) -> None:
    found = {
        str(path.relative_to(ROOT)): foreign(path) for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_no_module_imports_the_whole_library(name: str) -> None:
    """``from mcld_core import x`` loads everything and hides what is needed."""
    allowed = ("mcld_core.__main__", "mcld_core.extensions")
    assert "mcld_core" not in GRAPH[name] or name.startswith(allowed)


def test_there_is_no_circle() -> None:
    edges = {name: imported & set(GRAPH) for name, imported in GRAPH.items()}
    assert len(list(TopologicalSorter(edges).static_order())) == len(GRAPH)


def test_the_graph_sees_imports_upwards_and_in_functions() -> None:
    known = set(MODULES)
    source = "def f():\n    from mcld_core.extensions.teachers import robust\n"
    assert imports_of(source, known) == {"mcld_core.extensions.teachers.robust"}
    assert layer_of("mcld_core.extensions.teachers.robust") > layer_of("mcld_core.losses")
    assert layer_of("mcld_core.backends.torch") == 1
    assert layer_of("mcld_core.torch.loss") > layer_of("mcld_core.bank")

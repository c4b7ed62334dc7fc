"""Syntax that TensorFlow's AutoGraph cannot rewrite: it logs a warning to whoever compiles."""

from __future__ import annotations

import ast

import pytest

from tests.core.package.test_import_graph import MODULES


@pytest.mark.parametrize("name", MODULES)
def test_autograph_can_read_it(name: str) -> None:
    assert unreadable(MODULES[name].read_text(encoding="utf-8")) == []


def test_the_search_finds_both() -> None:
    walrus = "def outer(x):\n    if (y := x):\n        return y\n"
    annotated = "def outer():\n    x: int = 1\n    def inner():\n        return x\n"
    assert unreadable(walrus) == ["line 2: a walrus"]
    assert unreadable(annotated) == ["outer: x is annotated, and read by a function in it"]
    assert unreadable(annotated.replace("x: int", "x")) == []


def unreadable(source: str) -> list[str]:
    """List what AutoGraph cannot read of a module's text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.NamedExpr):
            found.append(f"line {node.lineno}: a walrus")
        if isinstance(node, ast.FunctionDef):
            inner = [x for x in node.body if isinstance(x, ast.FunctionDef)]
            read = {x.id for one in inner for x in ast.walk(one) if isinstance(x, ast.Name)}
            for x in node.body:
                if isinstance(x, ast.AnnAssign) and getattr(x.target, "id", None) in read:
                    name = ast.unparse(x.target)
                    found.append(f"{node.name}: {name} is annotated, and read by a function in it")
    return found

"""How much a person reads of this repository's examples to read one of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES

IMAGES = ("torch_cifar100", "jax_cifar100", "keras_cifar100", "tf_imagenet", "language_model")
SHORT = ("nlp_newsgroups", "timeseries_vowels", "multimodal_emoji", "noisy_teacher")


def imported(path: Path) -> Iterator[Path]:
    """Yield the files of the examples that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found = (EXAMPLES / f"{name.replace('.', '/')}.py" for name in names)
        yield from (file for file in found if file.is_file())


def reach(path: Path) -> set[Path]:
    """Return the file and all that it imports, directly or not."""
    found, left = set[Path](), [path]
    while left:
        file = left.pop()
        if file not in found:
            found.add(file)
            left += imported(file)
    return found


def lines(path: Path) -> int:
    """Return how long a file is."""
    return len(path.read_text("utf-8").splitlines())


@pytest.mark.parametrize("script", IMAGES)
def test_a_script_reaches_three_more_files_and_900_lines(script: str) -> None:
    found = reach(EXAMPLES / f"{script}.py")
    assert len(found) <= 4, sorted(found)
    assert sum(map(lines, found)) <= 900
    assert lines(EXAMPLES / f"{script}.py") <= 300


@pytest.mark.parametrize("script", SHORT)
def test_a_short_script_is_one_file(script: str) -> None:
    path = EXAMPLES / f"{script}.py"
    assert reach(path) == {path}
    assert lines(path) <= 150

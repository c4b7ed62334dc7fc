"""How much a person reads of this repository's examples to read one of them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES

#: script → at most so many files, and lines, itself among them; shorter is better
REACH = {
    "torch_cifar100": (8, 1490),
    "jax_cifar100": (8, 1560),
    "keras_cifar100": (8, 1630),
    "tf_imagenet": (10, 2060),
    "nlp_newsgroups": (4, 550),
    "timeseries_vowels": (4, 600),
    "multimodal_emoji": (8, 1010),
    "noisy_teacher": (9, 1085),
}


def imported(path: Path) -> Iterator[Path]:
    """Yield the files of the examples that a file imports at its top, and their packages."""
    for node in ast.parse(path.read_text("utf-8")).body:
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            package = path.relative_to(EXAMPLES).parent.parts
            outer = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*outer, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{name.name}" for name in node.names)]
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                place = EXAMPLES.joinpath(*parts[:end])
                found = [place.with_suffix(".py"), place / "__init__.py"]
                yield from (file for file in found if file.is_file())


def reach(path: Path) -> set[Path]:
    """Return the file and all that it imports at the top, directly or not."""
    found, left = set[Path](), [path]
    while left:
        file = left.pop()
        if file not in found:
            found.add(file)
            left += imported(file)
    return found


@pytest.mark.parametrize("script", REACH)
def test_a_script_reaches_few_files(script: str) -> None:
    found = reach(EXAMPLES / f"{script}.py")
    lines = sum(len(file.read_text("utf-8").splitlines()) for file in found)
    assert len(found) <= REACH[script][0], sorted(found)
    assert lines <= REACH[script][1]


def test_what_one_option_asks_for_is_not_reached() -> None:
    found = {file.stem for file in reach(EXAMPLES / "torch_cifar100.py")}
    asked = {"own_teachers", "teachers", "methods", "torch_networks", "torch_ranks", "trackers"}
    assert not found & {*asked, "configs", "export", "checkpoints"}


RUN = """
import json, sys
sys.path.insert(0, sys.argv.pop(1))
import torch_cifar100
assert torch_cifar100.main(sys.argv[1:]) == 0
found = [module for name, module in sys.modules.items() if name.split(".")[0] == "recipes"]
print(json.dumps([module.__file__ for module in found]))
"""


def test_a_plain_run_imports_no_more_than_is_reached_and_what_starts_it(tmp_path: Path) -> None:
    words = ["--dataset", "digits", "--epochs", "2", "--teacher-epochs", "1", "--no-onnx"]
    command = [sys.executable, "-c", RUN, str(EXAMPLES), *words, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = {Path(file) for file in json.loads(done.stdout.splitlines()[-1])}
    more = imported - reach(EXAMPLES / "torch_cifar100.py")
    once = ("folder.py", "data/load.py", "data/digits.py")  # checks of --out, and the images
    assert more == {EXAMPLES / "recipes" / name for name in once}


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.stem)
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 350

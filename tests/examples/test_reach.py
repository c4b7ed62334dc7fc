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
    "torch_cifar100": (7, 1080),
    "jax_cifar100": (7, 1100),
    "keras_cifar100": (7, 1120),
    "tf_imagenet": (7, 1200),
    "nlp_newsgroups": (4, 490),
    "timeseries_vowels": (4, 540),
    "multimodal_emoji": (8, 860),
    "noisy_teacher": (9, 930),
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


def reached(script: str) -> set[Path]:
    """Return what a script imports of the recipes."""
    path = EXAMPLES / f"{script}.py"
    return reach(path) - {path}


@pytest.mark.parametrize("script", REACH)
def test_a_script_reaches_few_files(script: str) -> None:
    found = reach(EXAMPLES / f"{script}.py")
    lines = sum(len(file.read_text("utf-8").splitlines()) for file in found)
    assert len(found) <= REACH[script][0], sorted(found)
    assert lines <= REACH[script][1]


def test_what_one_option_asks_for_is_not_reached() -> None:
    for script in ("torch_cifar100", "jax_cifar100", "keras_cifar100", "tf_imagenet"):
        found = {file.relative_to(EXAMPLES / "recipes") for file in reached(script)}
        assert not {file.parts[0] for file in found} & {"comparing", "processes"}, script
        asked = {"methods", "trackers", "checkpoints", "export", "own", "pictures", "tf_pictures"}
        assert not {file.stem for file in found} & asked, script


#: values of options, checks of --out, the images, networks by name, which teacher is meant;
#: then progress and Ctrl-C, and the exit status
AROUND = ("configs.py", "folder.py", "data/load.py", "data/digits.py", "models/__init__.py",
          "models/torch.py", "teachers/__init__.py", "watching.py", "exits.py")  # fmt: skip

RUN = """
import json, sys
sys.path.insert(0, sys.argv.pop(1))
import torch_cifar100
assert torch_cifar100.main(sys.argv[1:]) == 0
found = [module for name, module in sys.modules.items() if name.split(".")[0] == "recipes"]
print(json.dumps([module.__file__ for module in found]))
"""


def test_a_plain_run_imports_no_more_than_is_reached_and_what_stands_around_it(
    tmp_path: Path,
) -> None:
    words = ["--dataset", "digits", "--epochs", "2", "--teacher-epochs", "1", "--no-onnx"]
    command = [sys.executable, "-c", RUN, str(EXAMPLES), *words, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = {Path(file) for file in json.loads(done.stdout.splitlines()[-1])}
    more = imported - reach(EXAMPLES / "torch_cifar100.py")
    assert more == {EXAMPLES / "recipes" / name for name in AROUND}


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.stem)
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 350

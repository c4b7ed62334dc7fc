"""The pages of the site that are not the guide to one framework: their code runs, as printed."""

from __future__ import annotations

import re
import sys
import textwrap
import tomllib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.frameworks import ARRAY_BACKENDS, KNOWN, REQUESTED, only

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "docs/index.md",
    "docs/faq.md",
    "docs/method.md",
    "docs/hyperparameters.md",
    "docs/backends.md",
    "docs/migrating.md",
    "docs/guides/distributed.md",
    "docs/guides/offline.md",
    "docs/guides/class_imbalance.md",
    "docs/guides/nlp.md",
    "docs/guides/language_models.md",
    "docs/guides/timeseries.md",
    "docs/guides/self_distillation.md",
    "docs/guides/teachers.md",
    "docs/guides/multimodal.md",
)
GUIDES = {  # run by a test of their own
    "tests/torch": ("torch",),
    "tests/tensorflow": ("tensorflow",),
    "tests/jax": ("jax",),
    "tests/keras": ("keras",),
    "tests/export": ("export",),
    "tests/examples": ("training",),
}
BLOCK = re.compile(
    r"^( *)<!-- test: (\S+) -->\n\1```python\n(.*?)^\1```$", re.DOTALL | re.MULTILINE
)
BLOCKS = [
    (f"{page}:{number}", match[2], textwrap.dedent(match[3]))
    for page in PAGES
    for number, match in enumerate(BLOCK.finditer((ROOT / page).read_text("utf-8")))
]
GUIDES_FOUND = sorted((ROOT / "docs" / "guides").glob("*.md"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
PLAIN_KD = ("docs/migrating.md:1", "docs/migrating.md:2")


def run(place: str, code: str) -> dict[str, Any]:
    """Run a block in a namespace of its own; return the namespace."""
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, place, "exec"), namespace)
    return namespace


def blocks_for(backend_name: str) -> list[Any]:
    return [
        pytest.param(place, code, id=place) for place, need, code in BLOCKS if need == backend_name
    ]


def test_every_block_says_what_it_needs() -> None:
    assert len(BLOCKS) == sum((ROOT / page).read_text("utf-8").count("```python") for page in PAGES)
    assert {need for _, need, _ in BLOCKS} <= set(KNOWN)


@pytest.mark.parametrize(
    ("place", "code"),
    [block for name in ARRAY_BACKENDS for block in blocks_for(name)],
)
def test_block_runs(place: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with _usual_promotion():
        run(place, code)


def _usual_promotion() -> AbstractContextManager[None]:
    """JAX as users have it: optax' Adam itself mixes int and float, which tests forbid."""
    if "jax" not in REQUESTED:
        return nullcontext()
    import jax

    return jax.numpy_dtype_promotion("standard")


def test_every_page_with_code_has_a_test() -> None:
    pages = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "docs").rglob("*.md")}
    with_code = {page for page, path in pages.items() if "```python" in path.read_text("utf-8")}
    guides = {f"docs/guides/{name}.md" for names in GUIDES.values() for name in names}
    assert with_code == {*PAGES, *guides}
    for folder, names in GUIDES.items():
        tests = "".join(path.read_text("utf-8") for path in (ROOT / folder).glob("test_*guide*.py"))
        assert all(f'"{name}' in tests for name in names), folder


@pytest.mark.parametrize("guide", GUIDES_FOUND, ids=lambda p: p.stem)
def test_a_guide_says_what_to_install_and_opens_with_a_short_block(guide: Path) -> None:
    before, block, *_ = re.split(r"^```(?:python)?$", guide.read_text("utf-8"), flags=re.MULTILINE)
    assert "pip install" in before
    choice = "import os", "os.environ.setdefault"  # of a framework, in Keras
    lines = [line for line in block.splitlines() if line.strip() and not line.startswith(choice)]
    assert len(lines) <= 9


def installed_by(text: str) -> set[str]:
    """Return the modules that the commands of a page install, and what the library itself needs."""
    words = {"mcld_core", "numpy"}
    for extras in re.findall(r"'\.\[([\w,]+)\]'", text):
        words |= {package for extra in extras.split(",") for package in EXTRAS[extra]}
    for packages in re.findall(r"`pip install (?:'\S+')?([\w -]+)`", text):
        words |= set(packages.split())
    names = {re.split("[>=-]", word)[0] for word in words}
    return {{"pillow": "PIL"}.get(name, name) for name in names}


@pytest.mark.parametrize("guide", GUIDES_FOUND, ids=lambda p: p.stem)
def test_a_guide_names_the_packages_that_its_code_imports(guide: Path) -> None:
    text = guide.read_text("utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    imported = set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))
    assert imported - installed_by(text) - sys.stdlib_module_names == set()


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.stem)
def test_a_page_is_written_as_github_shows_it(page: Path) -> None:
    """Tabs, boxes and what a build puts in are seen on the site alone."""
    text = page.read_text("utf-8")
    assert re.findall(r"^ *(?:===|!!!|\?\?\?\+?) .*|<!-- insert.*|^\$\$", text, re.MULTILINE) == []


@pytest.mark.parametrize("_", only("torch"))
def test_plain_kd_and_its_replacement_are_equal(_: str) -> None:
    import torch

    before, same = (code for place, _, code in BLOCKS if place in PLAIN_KD)
    losses = []
    for code in (before, same):
        torch.manual_seed(0)
        losses.append(run("docs/migrating.md", code)["loss"])
    torch.testing.assert_close(*losses)

"""The pages of the site that are no guide to one framework: their code runs, as printed."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.frameworks import ARRAY_BACKENDS, KNOWN, only

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "docs/index.md",
    "docs/method.md",
    "docs/hyperparameters.md",
    "docs/backends.md",
    "docs/migrating.md",
    "docs/guides/distributed.md",
    "docs/guides/offline.md",
)
GUIDES = {  # run by a test of their own
    "tests/torch": ("torch",),
    "tests/tensorflow": ("tensorflow",),
    "tests/jax": ("jax",),
    "tests/keras": ("keras",),
    "tests/export": ("export",),
    "tests/extensions": ("nlp", "timeseries", "teachers", "multimodal"),
}
BLOCK = re.compile(
    r"^( *)<!-- test: (\S+) -->\n\1```python\n(.*?)^\1```$", re.DOTALL | re.MULTILINE
)
BLOCKS = [
    (f"{page}:{number}", match[2], textwrap.dedent(match[3]))
    for page in PAGES
    for number, match in enumerate(BLOCK.finditer((ROOT / page).read_text("utf-8")))
]
PLAIN_KD = ("docs/migrating.md:0", "docs/migrating.md:1")


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
    run(place, code)


def test_every_page_with_code_has_a_test() -> None:
    pages = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "docs").rglob("*.md")}
    with_code = {page for page, path in pages.items() if "```python" in path.read_text("utf-8")}
    guides = {f"docs/guides/{name}.md" for names in GUIDES.values() for name in names}
    assert with_code == {*PAGES, *guides}
    for folder, names in GUIDES.items():
        tests = "".join(path.read_text("utf-8") for path in (ROOT / folder).glob("test_*guide*.py"))
        assert all(f'"{name}' in tests for name in names), folder


def test_pages_that_keras_runs() -> None:
    assert [place for place, need, _ in BLOCKS if need == "keras"] == [
        "docs/index.md:3",
        "docs/migrating.md:5",
        "docs/migrating.md:6",
    ]


@pytest.mark.parametrize("_", only("torch"))
def test_plain_kd_and_its_replacement_are_equal(_: str) -> None:
    import torch

    before, same = (code for place, _, code in BLOCKS if place in PLAIN_KD)
    losses = []
    for code in (before, same):
        torch.manual_seed(0)
        losses.append(run("docs/migrating.md", code)["loss"])
    torch.testing.assert_close(*losses)


def test_the_nox_sessions_that_are_named_exist() -> None:
    noxfile = (ROOT / "noxfile.py").read_text("utf-8")
    sessions = set(re.findall(r"^def (\w+)\(session: nox\.Session", noxfile, re.MULTILINE))
    named: set[str] = set()
    for page in (*PAGES, "README.md", "CONTRIBUTING.md"):
        for command in re.findall(r"nox -s ([^`#\n]+)", (ROOT / page).read_text("utf-8")):
            named |= set(re.findall(r"\b(\w+)(?=\(|\s|\"|$)", command.split(" -- ")[0]))
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    named |= set(re.findall(r"^          - (\w+)", workflow, re.MULTILINE))
    assert {"tests", "demo", "docs", "build"} <= named <= sessions


COMMAND = re.compile(r"python (?:-m )?((?:examples|benchmarks)/\w+\.py)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]+")
OF_OTHER_TOOLS = {"--nproc-per-node", "--no-deps", "--help"}


def test_scripts_and_options_that_are_named_exist() -> None:
    sources = [*(ROOT / "examples").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    sources += [ROOT / "noxfile.py", ROOT / "mcld_core" / "export_cli.py"]
    code = "".join(path.read_text("utf-8") for path in sources)
    known = set(re.findall(r"[\"'](--[\w-]+)[\"']", code)) | OF_OTHER_TOOLS
    fields = re.findall(r"^    (\w+): ", (ROOT / "mcld_core/config.py").read_text("utf-8"), re.M)
    known |= {f"--mcld-{name.replace('_', '-')}" for name in fields}
    known |= {option.replace("--", "--no-", 1) for option in known}

    scripts, options = set(), set()
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        text = re.sub(r"<!--.*?-->", "", page.read_text("utf-8"), flags=re.DOTALL)
        scripts |= set(COMMAND.findall(text))
        options |= set(OPTION.findall(text))
    assert {"examples/keras_cifar100.py", "benchmarks/accuracy.py"} <= scripts
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
    assert {"--dataset", "--teacher-cache"} <= options
    assert options <= known

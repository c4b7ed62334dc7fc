"""The shell commands of the pages: each names what exists, with options that it takes."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:\w+=\w+ )?(?:python|torchrun|nox|pip) [^`\n]+)`")
FILES = ("sh", "yaml")  # of SLURM and Kubernetes
LAUNCHED = re.compile(r"(?:python|torchrun) .*?examples/[^'\"\n]*")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]+")
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
COMPARISON = ["-m", "benchmarks.comparison"]

WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
MATRIX = set(re.findall(r"^          - (\w+(?:\([\w-]+\))?)$", WORKFLOW, re.MULTILINE))
NOXFILE = (ROOT / "noxfile.py").read_text("utf-8")
SESSIONS = set(re.findall(r"^def (\w+)\(session: nox\.Session", NOXFILE, re.MULTILINE))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = set(PYPROJECT["project"]["optional-dependencies"])
NAMED = [item for group in PYPROJECT["dependency-groups"].values() for item in group]
PACKAGES = {re.split("[=>]", item)[0] for item in NAMED if isinstance(item, str)} | {
    "nox",
    "timm",  # it needs a torchvision, and none is there for the pinned torch
}


def blocks(page: Path) -> list[str]:
    """Return the commands of the blocks of a page, one a line, comments removed."""
    found = [code for kind, code in BLOCK.findall(page.read_text("utf-8")) if kind == "bash"]
    lines = [line for code in found for line in code.replace("\\\n", " ").splitlines()]
    commands = [part for line in lines for part in re.sub(r" +# .*", "", line).split(" && ")]
    files = [code for kind, code in BLOCK.findall(page.read_text("utf-8")) if kind in FILES]
    commands += [x for code in files for x in LAUNCHED.findall(code.replace("\\\n", " "))]
    return [command.strip() for command in commands]


COMMANDS = [(page, command) for page in PAGES for command in blocks(page)]
COMMANDS += [(page, code) for page in PAGES for code in INLINE.findall(page.read_text("utf-8"))]


@functools.cache
def help_of(*program: str) -> str:
    finished = run([*program, "--help"])
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def faults(command: str) -> list[str]:
    """Return what in a command does not exist, or is not taken."""
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    program, arguments = Path(words[0]).name, words[1:]
    if program == "nox":
        named = arguments[: arguments.index("--")] if "--" in arguments else arguments
        return [x for x in named if x not in {*SESSIONS, *MATRIX, "-s", "-l", "tests(<name>)"}]
    if program == "pip":
        return [x for x in arguments[1:] if not is_installable(x)]
    if program in ("torchrun", "accelerate"):
        script = next(n for n, word in enumerate(arguments) if word.endswith(".py"))
        program, arguments = "python", arguments[script:]
    if not program.startswith("python"):
        return [program]
    if arguments[:2] == ["-m", "venv"] or arguments[0] == "-c":  # run by tests/docs/test_readme.py
        return []
    if arguments == ["-m", "mcld_core"]:
        finished = run(arguments)
        return [finished.stderr] if finished.returncode else []
    count = 3 if arguments[:2] == ["-m", "mcld_core"] else 2 if arguments[0] == "-m" else 1
    return faults_of_script(arguments[:count], arguments[count:])


def is_installable(word: str) -> bool:
    extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
    return set((extras[1] or "all").split(",")) <= EXTRAS if extras else word in PACKAGES


def faults_of_script(program: list[str], arguments: list[str]) -> list[str]:
    """Return unknown options, or the complaint about their values."""
    if program[0] != "-m" and "/" not in program[0]:  # the reader's own
        return []
    if program[0] != "-m" and not (ROOT / program[0]).is_file():
        return program
    if not arguments:
        return []
    named = set(OPTION.findall(" ".join(arguments)))
    if "NAME" in arguments:  # a value that the reader puts in
        return sorted(named - set(OPTION.findall(help_of(*program))))
    finished = run([*program, *arguments, "--help"])  # values are read before the help is printed
    if finished.returncode:
        return [finished.stderr]
    return sorted(named - set(OPTION.findall(finished.stdout)))


def test_there_are_commands_of_each_kind() -> None:
    texts = "\n".join(command for _, command in COMMANDS)
    for kind in (
        "nox -s demo",
        "pip install",
        "torchrun",
        "python examples/",
        "python -m mcld_core",
    ):
        assert kind in texts


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_commands_of_a_page_name_what_exists(page: Path) -> None:
    assert {kind for kind, _ in BLOCK.findall(page.read_text("utf-8"))} <= {
        "bash",
        "python",
        "math",
        "bibtex",
        *FILES,
    }
    wrong = {command: faults(command) for of, command in COMMANDS if of == page}
    assert {command: found for command, found in wrong.items() if found} == {}


@pytest.mark.parametrize(
    "command",
    [
        "nox -s test",
        'nox -s "tests(mxnet)"',
        "pip install '.[mxnet]'",
        "pip install onnx2torch",
        "python examples/none.py",
        "python examples/nlp_newsgroups.py --dataset digits",  # an option of other scripts
        "KERAS_BACKEND=jax python examples/keras_cifar100.py --crop 1",
        "torchrun --nproc-per-node 2 examples/torch_cifar100.py --quick",
        "python -m benchmarks.comparison --quick",
        "python -m mcld_core export --checkpoints a.pt",
        "make",
    ],
)
def test_a_wrong_command_is_seen(command: str) -> None:
    assert faults(command)


def test_the_table_of_examples_names_every_script() -> None:
    page = (ROOT / "docs" / "examples.md").read_text("utf-8")
    named = set(re.findall(r"^\| `examples/(\w+)\.py` \|", page, re.MULTILINE))
    runs = {path.stem for path in SCRIPTS if '"__main__"' in path.read_text("utf-8")}
    assert named == runs - {"predict"}


def test_options_that_the_text_names_exist() -> None:
    known = {"--help"}
    for script in SCRIPTS:
        known |= set(OPTION.findall(help_of(script.relative_to(ROOT).as_posix())))
    for program in (("-m", "mcld_core", "export"), COMPARISON):
        known |= set(OPTION.findall(help_of(*program)))
    unknown = {}
    for page in PAGES:
        text = BLOCK.sub("", re.sub(r"<!--.*?-->", "", page.read_text("utf-8"), flags=re.DOTALL))
        options = set(OPTION.findall(INLINE.sub("", text)))
        unknown |= {page.name: options - known} if options - known else {}
    assert unknown == {}


def test_the_workflow_runs_sessions_that_exist() -> None:
    assert {"tests(numpy)", "coverage", "docs", "build"} <= MATRIX
    assert {name.split("(")[0] for name in MATRIX} <= SESSIONS

"""What to run: ``nox -l`` lists it.

The tests have two environments, made once and brought up to date by each run: ``.nox/numpy`` with
NumPy alone, and ``.nox/frameworks`` with every framework. All other sessions make one of their own
from nothing. That the library works beside one framework alone, ``nox -s build`` shows.
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.sessions = ["tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
FRAMEWORKS = ("torch", "tensorflow", "jax")
ENVIRONMENTS = {
    "numpy": ("test",),
    "frameworks": ("test", *FRAMEWORKS, "flax", "keras", "idioms"),
}
# What no suite of `tests` needs: the other sessions put it into the environment of frameworks.
MORE = ("coverage", "examples", "export", "benchmarks", "browser", "typecheck", "editor")
LIBRARY = ("mcld_core", "backends", "extensions")
# Extras without a framework of their own, and the one that they are tried with.
COMPANIONS = {"keras": ["jax"], "onnx": ["torch"], "examples": ["torch"]}
SUITES = ["numpy", *FRAMEWORKS, *(f"keras-{name}" for name in FRAMEWORKS), "distributed"]
# Tests that run once: of no framework, with NumPy; with all frameworks; of the scripts' options,
# with what the scripts need.
WITH_NUMPY = (
    *(f"tests/core/{name}.py" for name in ("cache/test_files", "package/test_import_graph")),
    *(f"tests/docs/test_docs_{name}.py" for name in ("defaults", "evidence", "made", "release")),
    *(f"tests/core/package/test_{name}.py" for name in ("autograph_syntax", "import")),
    "tests/docs/test_docs_class_imbalance.py",
)
WITH_ALL = "tests/core/package/test_several_frameworks.py"
COMMANDS = "tests/docs/test_docs_commands.py"
TYPES = "tests/core/package/test_types.py"
PARALLEL = ("-n", "logical", "--maxprocesses=4", "--dist=worksteal")
UP_TO_DATE: set[tuple[str, ...]] = set()
Env = Mapping[str, str]


def groups(*names: str) -> list[str]:
    """List the packages of dependency groups of pyproject.toml."""
    return list(nox.project.dependency_groups(PYPROJECT, *names))


def python_in(folder: Path) -> str:
    """Name the Python of an environment."""
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def environment(session: nox.Session, name: str, more: tuple[str, ...] = ()) -> str:
    """Make the environment of this name, or bring it up to date; return its Python."""
    folder = Path(".nox", name).resolve()
    python = python_in(folder)
    is_new = not Path(python).is_file()
    if is_new:
        session.run(sys.executable, "-m", "venv", "--clear", str(folder), external=True)
    wanted = ("-e", ".", *groups(*ENVIRONMENTS[name], *more))
    if wanted not in UP_TO_DATE:
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if is_new:  # thousands of modules, which pip would compile one after the other
            session.run(*pip, "--no-compile", *wanted, external=True)
            on_all_cores = ("-W", "ignore", "-m", "compileall", "-qq", "-j", "0", str(folder))
            # 1: packages hold templates, too, that are not Python
            session.run(python, *on_all_cores, external=True, success_codes=[0, 1])
        else:
            session.run(*pip, *wanted, external=True)
        UP_TO_DATE.add(wanted)
    return python


def pytest(session: nox.Session, python: str, *arguments: str, env: Env | None = None) -> None:
    """Run pytest on all cores."""
    session.run(python, "-m", "pytest", *PARALLEL, *arguments, env=env, external=True)


def suite_of(name: str) -> tuple[list[str], dict[str, str]]:
    """Return what pytest is given for a suite: paths with options, and the environment."""
    if name.startswith("keras-"):
        env = {"KERAS_BACKEND": name.removeprefix("keras-"), "MCLD_TEST_BACKENDS": "keras"}
        return ["tests/keras", "tests/docs/test_docstrings.py"], env
    if name == "distributed":
        env = {"MCLD_TEST_BACKENDS": ",".join(FRAMEWORKS)}
        return ["tests/distributed", WITH_ALL], env
    apart = [f"tests/{folder}" for folder in ("clone", "distributed", "examples", "export")]
    once = () if name == "numpy" else WITH_NUMPY
    options = [f"--ignore={path}" for path in (*apart, *once, COMMANDS, TYPES)]
    return ["tests", *options], {"MCLD_TEST_BACKENDS": name}


def library_sources() -> list[Path]:
    """List the modules that belong into the wheel."""
    return [path for folder in LIBRARY for path in Path(folder).rglob("*.py")]


@nox.session(venv_backend="none")
@nox.parametrize("suite", SUITES, ids=SUITES)
def tests(session: nox.Session, suite: str) -> None:
    """Run the tests of one backend, of Keras on one of its backends, or across processes."""
    paths, env = suite_of(suite)
    python = environment(session, "numpy" if suite == "numpy" else "frameworks")
    pytest(session, python, *paths, *session.posargs, env=env)


@nox.session(venv_backend="none")
def examples(session: nox.Session) -> None:
    """Run the tests of the examples and benchmarks, and of the commands that the pages show."""
    python = environment(session, "frameworks", MORE)
    pytest(session, python, "tests/examples", COMMANDS, *session.posargs)


@nox.session(venv_backend="none")
def export(session: nox.Session) -> None:
    """Export students from every framework to ONNX and verify them; run the notebook."""
    pytest(session, environment(session, "frameworks", MORE), "tests/export", *session.posargs)


@nox.session(venv_backend="none")
def clone(session: nox.Session) -> None:
    """Install a fresh clone, editable and not, and run README's code at its root and elsewhere."""
    pytest(session, environment(session, "frameworks", MORE), "tests/clone", *session.posargs)


@nox.session(venv_backend="none")
def guides(session: nox.Session) -> None:
    """Run each guide's code in an environment that its own install line made: half an hour.

    ``nox -s guides -- torch keras`` runs these guides alone.
    """
    session.run(sys.executable, ".ci/guides.py", *session.posargs, external=True)


@nox.session
def demo(session: nox.Session) -> None:
    """Compare CE, KD, DKD and MCLD on the embedded digits, in a minute: a table."""
    session.install("-e", ".", *groups("benchmarks", "torch"))
    session.run("python", "-m", "benchmarks.comparison", "--dataset", "digits", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff, and the workflow with actionlint."""
    session.install(*groups("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("actionlint", *map(str, sorted(Path(".github", "workflows").glob("*.yml"))))


@nox.session
def typecheck(session: nox.Session) -> None:
    """Type-check the library with mypy, and a user's calls with mypy and pyright."""
    session.install(*groups("typecheck"), "-e", ".")
    session.run("mypy", "-p", "mcld_core")
    env = {"MCLD_TEST_BACKENDS": ",".join(("numpy", *FRAMEWORKS))}
    python = environment(session, "frameworks", MORE)
    pytest(session, python, TYPES, *session.posargs, env=env)


@nox.session(venv_backend="none")
def coverage(session: nox.Session) -> None:
    """Report how much of the library the suites run.

    ``nox -s coverage -- export`` runs the named suites alone and asks for no percentage.
    """
    python = environment(session, "frameworks", MORE)
    coverage = [python, "-m", "coverage"]
    file = {"COVERAGE_FILE": str(Path(".coverage").resolve())}
    session.run(*coverage, "erase", env=file, external=True)
    suites = {name: suite_of(name) for name in SUITES} | {"export": (["tests/export"], {})}
    # a process of xdist may be killed as it ends: pytest-cov has written its data by then
    few = ["--cov", "--cov-append", "--cov-report=", "--hypothesis-profile=coverage"]
    for name in session.posargs or suites:
        paths, env = suites[name]
        pytest(session, python, *few, *paths, env=env | file)
    session.run(*coverage, "report", env=file, external=True)
    for folder in [] if session.posargs else LIBRARY:  # each of them, and so the total
        session.log(f"percentage of {folder}, at least 99")
        total = ["--format=total", "--fail-under=99", f"--include={folder}/*"]
        session.run(*coverage, "report", *total, env=file, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into site/: offline, warnings are errors; look at it in headless Chromium.

    Without a Chromium its tests fail (``apt-get install chromium``); MCLD_SKIP_CHROMIUM=1 leaves
    them out. A folder named by MCLD_SCREENSHOTS takes a picture of each page.
    """
    session.install("-e", ".", *groups("docs", "test", "browser"))
    env = {"NO_MKDOCS_2_WARNING": "1"}  # the theme's advertisement
    session.run("mkdocs", "build", "--strict", env=env)
    session.run("python", "-m", "pytest", "tests/docs/test_site.py", *session.posargs)


def packages(session: nox.Session) -> Path:
    """Build wheel and sdist into dist/ and check them; return the wheel."""
    for folder in ("build", "dist"):
        shutil.rmtree(folder, ignore_errors=True)
    session.run("pyproject-build")  # the wheel is built from the sdist
    (wheel,) = (path.resolve() for path in Path("dist").glob("*.whl"))
    (sdist,) = Path("dist").glob("*.tar.gz")
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    if top != {"mcld_core"}:
        session.error(f"the wheel has {sorted(top)} at its top level, not mcld_core alone")
    modules = sum(name.endswith(".py") for name in names)
    if modules != len(library_sources()):
        session.error(f"the wheel has {modules} modules of {len(library_sources())}")
    return wheel


@nox.session
def build(session: nox.Session) -> None:
    """Build and check wheel and sdist, and try the wheel in an empty environment for each extra.

    ``nox -s build -- torch`` tries the wheel alone and that extra; ``-- none`` the wheel alone.
    The versions are those that the suites run with.
    """
    session.install(*groups("build"))
    wheel = packages(session)
    extras = session.posargs or list(PYPROJECT["project"]["optional-dependencies"])
    folder = Path(session.create_tmp()).resolve()
    pins = {
        pin for group in PYPROJECT["dependency-groups"].values() for pin in group if "==" in pin
    }
    (folder / "pins.txt").write_text("\n".join(sorted(pins)), "utf-8")
    for extra in ["none", *(name for name in extras if name != "none")]:
        try:
            try_extra(session, wheel, extra, folder)
        finally:  # gigabytes
            shutil.rmtree(folder / "empty", ignore_errors=True)


def try_extra(session: nox.Session, wheel: Path, extra: str, folder: Path) -> None:
    """Install the wheel with one extra into an empty environment and use what it is for."""
    empty = folder / "empty"
    session.run("python", "-m", "venv", "--clear", str(empty))
    chosen = [] if extra == "none" else [extra, *COMPANIONS.get(extra, [])]
    named = f"{wheel}[{','.join(chosen)}]" if chosen else str(wheel)
    python = python_in(empty)
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", str(folder / "pins.txt")]
    session.run(*pip, named, external=True)
    session.run(python, str(Path(".ci", "smoke.py").resolve()), extra, str(empty), external=True)


@nox.session(venv_backend="none")
def benchmarks(session: nox.Session) -> None:
    """Run a short version of the benchmarks (no assertion on times)."""
    python = environment(session, "frameworks", MORE)
    for framework in FRAMEWORKS:
        command = [python, "benchmarks/speed.py", "--framework", framework, "--quick"]
        session.run(*command, external=True)

"""What to run: ``nox -l`` lists it. Each session makes its own environment from nothing."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.sessions = ["tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
FRAMEWORKS = {"numpy": [], "torch": ["torch"], "tensorflow": ["tensorflow"], "jax": ["jax"]}
KERAS_BACKENDS = ("tensorflow", "jax", "torch")
EVERYTHING = ("torch", "tensorflow", "jax", "flax", "keras", "examples", "export")
LIBRARY = ("mcld_core", "backends", "extensions")
# Extras without a framework of their own, and the one that they are tried with.
COMPANIONS = {"keras": ["jax"], "onnx": ["torch"], "examples": ["torch"]}
SUITES = [*FRAMEWORKS, *(f"keras-{name}" for name in KERAS_BACKENDS), "distributed"]


def install(session: nox.Session, *groups: str) -> None:
    """Install the library, editable, with dependency groups of pyproject.toml."""
    session.install("-e", ".", *nox.project.dependency_groups(PYPROJECT, *groups))


def ignored(*suites: str) -> list[str]:
    """List the options that leave out the folders of tests that these suites are not."""
    folders = ("distributed", "examples", "export")
    return [f"--ignore=tests/{name}" for name in folders if name not in suites]


def library_sources() -> list[Path]:
    """List the modules that belong into the wheel."""
    return [path for folder in LIBRARY for path in Path(folder).rglob("*.py")]


@nox.session
@nox.parametrize("suite", SUITES, ids=SUITES)
def tests(session: nox.Session, suite: str) -> None:
    """Run the tests of one backend, of Keras on one of its backends, or across processes."""
    if suite == "distributed":
        install(session, "test", "torch", "tensorflow", "jax")
        session.run("pytest", "tests/distributed", *session.posargs)
        # only here are all frameworks together, so that mixing them can be refused
        env = {"MCLD_TEST_BACKENDS": "torch,tensorflow,jax"}
        mixed = [
            "tests/core/test_dispatch.py",
            "tests/core/test_bank.py",
            "-k",
            "two_frameworks or not_mix",
        ]
        session.run("pytest", *mixed, env=env)
    elif suite.startswith("keras-"):
        framework = suite.removeprefix("keras-")
        install(session, "test", "keras", framework)
        env = {"KERAS_BACKEND": framework, "MCLD_TEST_BACKENDS": "keras"}
        examples = "tests/docs/test_docstrings.py"  # of the docstrings, Keras' among them
        session.run("pytest", "tests/backends/keras", examples, *session.posargs, env=env)
    else:
        install(session, "test", *FRAMEWORKS[suite], *(["idioms"] if suite == "torch" else []))
        env = {"MCLD_TEST_BACKENDS": suite}
        once = [] if suite == "numpy" else ["--ignore=tests/docs/test_docs_commands.py"]
        session.run("pytest", "tests", *ignored(suite), *once, *session.posargs, env=env)


@nox.session
def examples(session: nox.Session) -> None:
    """Run the quick command of each example, and the tests of what they share."""
    install(session, "test", *EVERYTHING)
    session.run("pytest", "tests/examples", *session.posargs)


@nox.session
def export(session: nox.Session) -> None:
    """Export students from every framework to ONNX and verify them; run the notebook."""
    install(session, "test", *EVERYTHING)
    session.run("pytest", "tests/export", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Distil a student on the embedded digits by CE, KD, DKD and MCLD, and plot the curves."""
    install(session, "examples", "torch")
    session.run("python", "examples/torch_cifar100.py", "--dataset", "digits", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff, and the workflow with actionlint."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("actionlint", *map(str, sorted(Path(".github", "workflows").glob("*.yml"))))


@nox.session
def typecheck(session: nox.Session) -> None:
    """Type-check the installed wheel: the source tree hides the package mapping from mypy."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "typecheck"))
    shutil.rmtree("build", ignore_errors=True)  # a stale build folder gets into the wheel
    session.install(".")
    sources = library_sources()
    config = Path("pyproject.toml").resolve()
    session.chdir(session.create_tmp())
    output = session.run("mypy", "--config-file", str(config), "-p", "mcld_core", silent=True)
    print(output)
    if f"{len(sources)} source files" not in str(output):
        session.error(f"mypy did not see all {len(sources)} files of the package")


@nox.session
def coverage(session: nox.Session) -> None:
    """Report how much of the library the suites run, with every framework in one environment.

    ``nox -s coverage -- export`` runs the named parts alone and asks for no percentage.
    """
    install(session, "test", *EVERYTHING, "idioms", "coverage")
    session.env["COVERAGE_FILE"] = str(Path(".coverage").resolve())
    pages = [f"--ignore=tests/docs/test_{name}.py" for name in ("readme", "docs", "docs_commands")]
    frameworks = ("numpy", "torch", "tensorflow")
    parts: dict[str, tuple[list[str], dict[str, str]]] = {
        ",".join(frameworks): (["tests", *ignored(*frameworks), *pages], {}),
        "jax": (["tests", *ignored("jax"), *pages], {}),
        "torch,tensorflow,jax": (["tests/distributed"], {}),
        "export": (["tests/export"], {"MCLD_TEST_BACKENDS": ""}),
    }
    for name in KERAS_BACKENDS:
        env = {"MCLD_TEST_BACKENDS": "keras", "KERAS_BACKEND": name}
        parts[f"keras-{name}"] = (["tests/backends/keras"], env)
    session.run("coverage", "erase")
    for name in session.posargs or parts:
        paths, env = parts[name]
        few = ["-m", "pytest", "--hypothesis-profile=coverage", *paths]
        session.run("coverage", "run", *few, env={"MCLD_TEST_BACKENDS": name} | env)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")
    for folder in [] if session.posargs else LIBRARY:  # each of them, and so the total
        session.log(f"percentage of {folder}, at least 95")
        total = ["--format=total", "--fail-under=95"]
        session.run("coverage", "report", f"--include={folder}/*", *total)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into site/: offline, warnings are errors; look at it in headless Chromium.

    Without a Chromium its tests are skipped, and fail if MCLD_REQUIRE_CHROMIUM is set. A folder
    named by MCLD_SCREENSHOTS takes a picture of each page.
    """
    session.install(*nox.project.dependency_groups(PYPROJECT, "docs", "test"))
    shutil.rmtree("build", ignore_errors=True)  # a stale build folder gets into the wheel
    session.install(".")  # mkdocstrings reads the installed package
    env = {"NO_MKDOCS_2_WARNING": "1"}  # the theme's advertisement
    session.run("mkdocs", "build", "--strict", env=env)
    # -P: the repository's folder mcld_core is not the installed package
    session.run("python", "-P", "-m", "pytest", "tests/docs/test_site.py", *session.posargs)


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
    session.install(*nox.project.dependency_groups(PYPROJECT, "build"))
    wheel = packages(session)
    extras = session.posargs or list(PYPROJECT["project"]["optional-dependencies"])
    folder = Path(session.create_tmp()).resolve()
    pins = {
        pin for group in PYPROJECT["dependency-groups"].values() for pin in group if "==" in pin
    }
    (folder / "pins.txt").write_text("\n".join(sorted(pins)), "utf-8")
    smoke = Path(".ci", "smoke.py").resolve()
    for extra in ["none", *(name for name in extras if name != "none")]:
        empty = folder / "empty"
        session.run("python", "-m", "venv", "--clear", str(empty))
        python = str(empty / "bin" / "python")
        chosen = [] if extra == "none" else [extra, *COMPANIONS.get(extra, [])]
        named = f"{wheel}[{','.join(chosen)}]" if chosen else str(wheel)
        pip = [python, "-m", "pip", "install", "--quiet", "--constraint", str(folder / "pins.txt")]
        session.run(*pip, named, external=True)
        session.run(python, str(smoke), extra, str(empty), external=True)
        shutil.rmtree(empty)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Run a short version of the benchmarks (no assertion on times)."""
    install(session, "torch", "tensorflow", "jax", "benchmarks")
    for framework in ("torch", "tensorflow", "jax"):
        session.run("python", "benchmarks/speed.py", "--framework", framework, "--quick")
        session.run("python", "benchmarks/memory.py", "--framework", framework, "--quick")

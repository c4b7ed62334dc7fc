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
SUITES = [*FRAMEWORKS, "keras-tensorflow", "keras-jax", "keras-torch", "distributed"]


def install(session: nox.Session, *groups: str) -> None:
    """Install the library, editable, with dependency groups of pyproject.toml."""
    session.install("-e", ".", *nox.project.dependency_groups(PYPROJECT, *groups))


def library_sources() -> list[Path]:
    """List the modules that belong into the wheel."""
    folders = (Path("mcld_core"), Path("backends"), Path("extensions"))
    return [path for folder in folders for path in folder.rglob("*.py")]


@nox.session
@nox.parametrize("suite", SUITES, ids=SUITES)
def tests(session: nox.Session, suite: str) -> None:
    """Run the tests of one backend, of Keras on one of its backends, or across processes."""
    if suite == "distributed":
        install(session, "test", "torch", "tensorflow", "jax")
        session.run("pytest", "tests/distributed", *session.posargs)
        # only here are all frameworks together, so that mixing them can be refused
        env = {"MCLD_TEST_BACKENDS": "torch,tensorflow,jax"}
        mixed = ["tests/test_dispatch.py", "tests/test_bank.py", "-k", "two_frameworks or not_mix"]
        session.run("pytest", *mixed, env=env)
    elif suite.startswith("keras-"):
        framework = suite.removeprefix("keras-")
        install(session, "test", "keras", framework)
        env = {"KERAS_BACKEND": framework, "MCLD_TEST_BACKENDS": "keras"}
        session.run("pytest", "tests/keras", *session.posargs, env=env)
    else:
        install(session, "test", *FRAMEWORKS[suite], *(["idioms"] if suite == "torch" else []))
        others = ["keras", "distributed", "examples", "export", *FRAMEWORKS]
        ignored = [f"--ignore=tests/{name}" for name in others if name != suite]
        env = {"MCLD_TEST_BACKENDS": suite}
        session.run("pytest", "tests", *ignored, *session.posargs, env=env)


@nox.session
def examples(session: nox.Session) -> None:
    """Run the quick command of each example, and the tests of what they share."""
    install(session, "test", "examples", "torch", "tensorflow", "jax", "flax", "keras")
    session.run("pytest", "tests/examples", *session.posargs)


@nox.session
def export(session: nox.Session) -> None:
    """Export students from every framework to ONNX and verify them."""
    install(session, "test", "examples", "export", "torch", "tensorflow", "jax", "flax", "keras")
    session.run("pytest", "tests/export", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Distil a student on the embedded digits by CE, KD, DKD and MCLD, and plot the curves."""
    install(session, "examples", "torch")
    session.run("python", "examples/torch_cifar100.py", "--dataset", "digits", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


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
    """Report how much of the library the suites of NumPy and PyTorch run."""
    install(session, "test", "torch", "idioms", "coverage")
    session.env["COVERAGE_FILE"] = str(Path(".coverage").resolve())
    session.env["MCLD_TEST_BACKENDS"] = "numpy,torch"
    others = ["keras", "distributed", "examples", "export", "tensorflow", "jax"]
    paths = ["tests", *(f"--ignore=tests/{name}" for name in others)]
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *(session.posargs or paths))
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into site/: offline, warnings are errors."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "docs"))
    shutil.rmtree("build", ignore_errors=True)  # a stale build folder gets into the wheel
    session.install("--no-deps", ".")  # mkdocstrings reads the installed package
    env = {"NO_MKDOCS_2_WARNING": "1"}  # the theme's advertisement
    session.run("mkdocs", "build", "--strict", *session.posargs, env=env)


@nox.session
def build(session: nox.Session) -> None:
    """Build and check wheel and sdist, and try the wheel in an empty environment.

    ``nox -s build -- torch`` installs that extra with it and computes a loss there, too.
    """
    session.install(*nox.project.dependency_groups(PYPROJECT, "build"))
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

    folder = Path(session.create_tmp()).resolve()
    session.run("python", "-m", "venv", "--clear", str(folder / "empty"))
    python = str(folder / "empty" / "bin" / "python")
    extras = f"[{','.join(session.posargs)}]" if session.posargs else ""
    session.run(python, "-m", "pip", "install", "--quiet", f"{wheel}{extras}", external=True)
    session.chdir(folder)
    session.run(python, "-m", "mcld_core", external=True)
    loss = (
        "import numpy as np, mcld_core as m; print(m.mcld_loss(np.eye(3), np.eye(3), np.arange(3)))"
    )
    for backend in ["numpy", *(extra for extra in session.posargs if extra in FRAMEWORKS)]:
        session.run(python, "-c", loss, external=True, env={"MCLD_BACKEND": backend})


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Run a short version of the benchmarks (no assertion on times)."""
    install(session, "torch", "tensorflow", "jax", "benchmarks")
    for framework in ("torch", "tensorflow", "jax"):
        session.run("python", "benchmarks/speed.py", "--framework", framework, "--quick")
        session.run("python", "benchmarks/memory.py", "--framework", framework, "--quick")

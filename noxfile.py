"""What to run: ``nox -l`` lists it. Each session makes its own environment from nothing."""

from __future__ import annotations

import shutil
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


@nox.session
@nox.parametrize("suite", SUITES, ids=SUITES)
def tests(session: nox.Session, suite: str) -> None:
    """Run the tests of one backend, of Keras on one of its backends, or across processes."""
    if suite == "distributed":
        install(session, "test", "torch", "tensorflow", "jax")
        session.run("pytest", "tests/distributed", *session.posargs)
    elif suite.startswith("keras-"):
        framework = suite.removeprefix("keras-")
        install(session, "test", "keras", framework)
        env = {"KERAS_BACKEND": framework, "MCLD_TEST_BACKENDS": framework}
        session.run("pytest", "tests/keras", *session.posargs, env=env)
    else:
        install(session, "test", *FRAMEWORKS[suite], *(["idioms"] if suite == "torch" else []))
        paths = sorted(str(path) for path in Path("tests").glob("test_*.py"))
        paths += ["tests/extensions"] + ([] if suite == "numpy" else [f"tests/{suite}"])
        session.run("pytest", *paths, *session.posargs, env={"MCLD_TEST_BACKENDS": suite})


@nox.session
def examples(session: nox.Session) -> None:
    """Run the quick command of each example, and the tests of what they share."""
    install(session, "test", "examples", "torch", "tensorflow", "jax", "flax", "keras")
    session.run("pytest", "tests/examples", *session.posargs)


@nox.session
def export(session: nox.Session) -> None:
    """Export students from every framework to ONNX and verify them."""
    install(session, "test", "export", "torch", "tensorflow", "jax", "flax", "keras")
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
    sources = [
        path
        for folder in ("mcld_core", "backends", "extensions")
        for path in Path(folder).rglob("*.py")
    ]
    config = Path("pyproject.toml").resolve()
    session.chdir(session.create_tmp())
    output = session.run("mypy", "--config-file", str(config), "-p", "mcld_core", silent=True)
    print(output)
    if f"{len(sources)} source files" not in str(output):
        session.error(f"mypy did not see all {len(sources)} files of the package")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Run a short version of the benchmarks (no assertion on times)."""
    install(session, "torch", "tensorflow", "jax", "benchmarks")
    for framework in ("torch", "tensorflow", "jax"):
        session.run("python", "benchmarks/speed.py", "--framework", framework, "--quick")
        session.run("python", "benchmarks/memory.py", "--framework", framework, "--quick")

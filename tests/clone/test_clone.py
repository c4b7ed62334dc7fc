"""A fresh clone is installed, editable and not; README's code runs at its root and elsewhere.

The environment of the clone sees the frameworks of the one that runs this test, so that pip brings
the library alone. Another one holds what the line for Keras on JAX brings, and nothing else.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path("Scripts/python.exe" if os.name == "nt" else "bin/python")
INSTALL = {"installed": ["."], "editable": ["-e", "."]}
IDENTITY = """
import pickle, mcld_core, mcld_core.backends, mcld_core.extensions.nlp
from mcld_core.torch import MCLDLoss
assert pickle.loads(pickle.dumps(MCLDLoss)) is MCLDLoss
print(mcld_core.__version__, mcld_core.__file__, mcld_core.backends.__file__, sep="\\n")
"""


@dataclass(frozen=True)
class Clone:
    """A clone with an environment, and a folder in it or elsewhere to run commands in."""

    root: Path
    folder: Path
    editable: bool
    environment: str = ".venv"

    @property
    def python(self) -> Path:
        """The Python of its environment."""
        return self.root / self.environment / PYTHON

    def run(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run Python in the folder; return what it printed."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in ("MCLD_BACKEND", "KERAS_BACKEND", "PYTHONPATH")
        }
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env=inherited | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=INSTALL)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks or would track, and the library installed from it."""
    root = tmp_path_factory.mktemp(request.param) / "clone"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in filter(None, files.split("\0")):
        if (ROOT / file).exists():  # not one that is deleted and not yet committed
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, root / file, follow_symlinks=False)
    subprocess.run([sys.executable, "-m", "venv", ".venv"], cwd=root, check=True)
    python = root / ".venv" / PYTHON
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True)
    here = [path for path in sys.path if "site-packages" in path]
    (Path(purelib.stdout.strip()) / "frameworks.pth").write_text("\n".join(here), "utf-8")
    command = [python, "-m", "pip", "install", "--quiet", *INSTALL[request.param]]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(params=["root", "elsewhere"])
def clone(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Clone:
    """The clone at its root, where the folder mcld_core hides the installed one; and elsewhere."""
    folder = root if request.param == "root" else tmp_path
    return Clone(root, folder, editable=root.parent.name.startswith("editable"))


def test_where_the_package_comes_from(clone: Clone) -> None:
    version, package, backends = clone.run("-c", IDENTITY).splitlines()
    text = (clone.root / "mcld_core" / "__init__.py").read_text("utf-8")
    assert [version] == re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    sources = clone.editable or clone.folder == clone.root
    inside = [clone.root / "mcld_core", clone.root / "mcld_core" / "backends"]
    assert [Path(file).parent in inside for file in (package, backends)] == [sources, sources]
    assert clone.root in Path(package).parents
    assert clone.run("-m", "mcld_core", "--version").strip() == f"mcld {version}"


def test_tools_see_every_module(clone: Clone, tmp_path: Path) -> None:
    """Pkgutil, mypy and pyright follow the links of a clone, and see an installed package."""
    walk = (
        "import pkgutil, mcld_core\n"
        "print(*(m.name for m in pkgutil.walk_packages(mcld_core.__path__, 'mcld_core.')))"
    )
    seen = set(clone.run("-c", walk, KERAS_BACKEND="jax").split())
    folders = {"mcld_core": "mcld_core", "mcld_core.backends": "backends"}
    folders["mcld_core.extensions"] = "extensions"
    for package, folder in folders.items():
        for path in (clone.root / folder).rglob("*.py"):
            parts = path.relative_to(clone.root / folder).with_suffix("").parts
            assert ".".join((package, *parts)).removesuffix(".__init__") in {package, *seen}
    imports = ("mcld_core.backends.numpy import name", "mcld_core.extensions.nlp import TopKLogits")
    wrong = "".join(f"from {line}\n" for line in imports)
    (clone.folder / "user.py").write_text(wrong + "a: int = name\nb: int = TopKLogits\n")
    mypy = ["--no-error-summary", "--follow-imports=silent", f"--cache-dir={tmp_path}", "user.py"]
    found = clone.run("-m", "mypy", *mypy, status=1)
    assert re.findall(r"user\.py:(\d): error: Incompatible", found) == ["3", "4"], found
    found = clone.run("-m", "pyright", "--pythonpath", str(clone.python), "user.py", status=1)
    assert re.findall(r"user\.py:(\d):\d+ - error: Type", found) == ["3", "4"], found


def test_the_report_and_the_commands(clone: Clone) -> None:
    said = clone.run("-m", "mcld_core", KERAS_BACKEND="jax")
    assert all(f"\n{name}" in said for name in ("torch", "tensorflow", "jax", "keras"))
    assert "not installed" not in said
    assert "--input-shape" in clone.run("-m", "mcld_core", "export", "--help")


def readme() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return README's Python blocks by what they need, and its one-liners by backend."""
    page = importlib.import_module("tests.docs.test_readme")
    return page.BLOCKS, page.ONE_LINERS


@pytest.mark.parametrize(
    ("need", "code"), [pytest.param(*block, id=block[0]) for block in readme()[0]]
)
def test_the_blocks_of_the_readme_run(need: str, code: str, clone: Clone) -> None:
    clone.run("-c", code)


def test_the_one_liners_of_the_readme_print_one_loss(clone: Clone) -> None:
    printed = set()
    for backend, command in readme()[1]:
        _, *arguments = shlex.split(command)
        printed.add(clone.run(*arguments, MCLD_BACKEND=backend).strip())
    assert len(printed) == 1
    assert float(printed.pop()) > 0


@pytest.mark.parametrize("root", ["installed"], indirect=True)
def test_keras_runs_beside_jax_alone(root: Path, tmp_path: Path) -> None:
    """With an empty home, and with the keras.json that names TensorFlow, which Keras writes there.

    An import that fails says which line is missing. The library changes no environment variable.
    """
    alone = Clone(root, tmp_path, editable=False, environment=".keras")
    subprocess.run([sys.executable, "-m", "venv", alone.environment], cwd=root, check=True)
    groups = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    (root / "pins.txt").write_text("\n".join(groups["keras"] + groups["jax"]), "utf-8")
    pip = ["-m", "pip", "install", "--quiet", "--constraint", "pins.txt", ".[keras,jax]"]
    Clone(root, root, editable=False, environment=".keras").run(*pip)
    packages = {line.split("=")[0] for line in alone.run("-m", "pip", "freeze").split()}
    assert {"keras", "jax"} <= packages
    assert not {"tensorflow", "torch"} & packages
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    found = "import os\ntry: import mcld_core.keras\nexcept ImportError as e: print(e)"
    said = alone.run("-c", f"{found}\nassert 'KERAS_BACKEND' not in os.environ", **home)
    line = 'import os; os.environ.setdefault("KERAS_BACKEND", "jax")'
    assert line in said
    assert "tensorflow" in (tmp_path / ".keras" / "keras.json").read_text("utf-8")
    (block,) = (code for need, code in readme()[0] if need == "keras")
    alone.run("-c", block, **home)
    shutil.rmtree(tmp_path / ".keras")
    alone.run("-c", block, **home)
    alone.run("-c", f"{line}\nfrom mcld_core.keras import MCLDLoss", **home)


def test_pytest_and_an_example_run_at_the_root(root: Path) -> None:
    clone = Clone(root, root, editable=False)
    few = ["-q", "-p", "no:cacheprovider", "tests/core/formulas/test_oracles.py"]
    assert " passed" in clone.run("-m", "pytest", *few, MCLD_TEST_BACKENDS="numpy")
    assert "--dataset" in clone.run("examples/torch_cifar100.py", "--help")

"""In a clone, backends/ and extensions/ are links inside mcld_core/; installed, real folders."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("mcld_core", "backends", "extensions")
NOTHING = shutil.ignore_patterns("__pycache__")
NOT_INSTALLED = """
import sys
sys.meta_path = [f for f in sys.meta_path if not f.__module__.startswith("__editable__")]
"""
ALL_FROM_HERE = """
import sys, mcld_core, mcld_core.backends.numpy, mcld_core.extensions.teachers
modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "mcld_core"]
print(*{str(module.__file__) for module in modules}, sep="\\n")
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the sources side by side, and others that are no part of the package."""
    for name in SOURCES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=NOTHING, symlinks=True)
    for name in ("tests", "examples"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "noxfile.py").touch()
    return tmp_path


def run(program: str, folder: Path, *arguments: str, before: str = NOT_INSTALLED) -> str:
    """Run a program in a folder, whose modules come before the installed ones."""
    command = [sys.executable, "-c", before + program, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("before", ["", NOT_INSTALLED], ids=["editable", "not installed"])
def test_every_module_is_the_clones(before: str, clone: Path) -> None:
    """Also where another clone, this repository, is installed as editable and would find them."""
    files = [Path(line) for line in run(ALL_FROM_HERE, clone, before=before).splitlines()]
    assert len(files) > 20
    assert [file for file in files if clone not in file.parents] == []


def test_an_installed_package_has_its_own(clone: Path) -> None:
    """What lies beside it is not its: site-packages may hold anybody's `backends`."""
    installed = clone / "site-packages"
    shutil.copytree(clone / "mcld_core", installed / "mcld_core")  # follows links, as a wheel does
    for name in ("backends", "extensions"):
        (installed / name).mkdir()
        (installed / name / "__init__.py").write_text("raise SystemExit('somebody else')")
    files = [Path(line) for line in run(ALL_FROM_HERE, installed).splitlines()]
    assert [file for file in files if installed / "mcld_core" not in file.parents] == []


def test_a_clone_takes_pickles_and_reloads(clone: Path) -> None:
    dump = (
        "import pickle, mcld_core.backends, mcld_core.extensions.teachers as teachers\n"
        "print(pickle.dumps((mcld_core.backends.backend_for, teachers.ensemble)).hex())"
    )
    load = (
        "import pickle, sys\n"
        "backend_for, ensemble = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(backend_for.__module__, ensemble.__module__)"
    )
    assert run(load, clone, run(dump, clone)).startswith("mcld_core.backends mcld_core.extensions.")
    again = (
        "import importlib, mcld_core, mcld_core.backends as backends\n"
        "backends.NAMES = ()\n"
        "importlib.reload(mcld_core)\n"
        "print(importlib.reload(backends) is mcld_core.backends, 'numpy' in backends.NAMES)"
    )
    assert run(again, clone) == "True True"

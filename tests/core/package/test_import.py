"""`import mcld_core` imports no framework; and the test that shows that this can be seen."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import mcld_core
from tests.frameworks import run_without

HEAVY = [
    "torch",
    "tensorflow",
    "jax",
    "keras",
    "onnx",
    "onnxruntime",
    "sklearn",
    "matplotlib",
    "transformers",
    "pooch",
    "tqdm",
    "mcld_core.export.student",
]


def imported_by(statement: str) -> set[str]:
    """Return which heavy packages, or exporter, a fresh interpreter has after the statement."""
    program = f"import sys\n{statement}\nprint(*(n for n in {HEAVY} if n in sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_the_import_is_light() -> None:
    everything = (
        "from mcld_core import *; import mcld_core, mcld_core.backends, mcld_core.extensions"
    )
    loss = "import numpy; mcld_core.mcld_loss(numpy.eye(3), numpy.eye(3)); dir(mcld_core)"
    assert imported_by(f"{everything}; {loss}") == set()


@pytest.mark.parametrize(
    "statement", ["from mcld_core import export_onnx", "import mcld_core; mcld_core.export_onnx"]
)
def test_the_exporter_is_loaded_when_it_is_first_used(statement: str) -> None:
    assert imported_by(statement) == {"mcld_core.export.student"}


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'mcld_core' has no attribute 'export_tflite'"):
        mcld_core.export_tflite  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'export_tflite'"):
        exec("from mcld_core import export_tflite")


@pytest.mark.parametrize("missing", ["torch", "tensorflow", "jax"])
@pytest.mark.parametrize("how", ["set_backend", "MCLD_BACKEND"])
def test_a_framework_that_is_not_installed_says_what_to_install(missing: str, how: str) -> None:
    call = "mcld_core.kd_loss(numpy.zeros((2, 2)), numpy.zeros((2, 2)))"
    action = f"mcld_core.set_backend({missing!r})" if how == "set_backend" else call
    said = run_without(missing, action, **({how: missing} if how == "MCLD_BACKEND" else {}))
    assert f"in a clone of MCLD, pip install '.[{missing}]'" in said
    assert f"needs {missing}" in said


def test_the_public_names() -> None:
    expected = {
        "ClassMeans",
        "MCLDConfig",
        "TeacherBank",
        "TeacherCache",
        "TeacherKeys",
        "adjust_logits",
        "balance_logits",
        "category_wise",
        "check_finite",
        "dist_loss",
        "dkd_loss",
        "export_onnx",
        "get_backend",
        "instance_wise",
        "kd_loss",
        "mcld_loss",
        "nkd_loss",
        "rld_loss",
        "sample_wise",
        "select_classes",
        "set_backend",
        "ttm_loss",
    }
    found = {name: getattr(mcld_core, name) for name in dir(mcld_core) if name[0] != "_"}
    found = {name: value for name, value in found.items() if not isinstance(value, ModuleType)}
    assert set(found) == expected
    assert [name for name, value in found.items() if not value.__doc__] == []
    assert mcld_core.__version__ == importlib.metadata.version("mcld")


@pytest.mark.parametrize("name", ["backends", "extensions"])
def test_a_folder_beside_is_not_a_second_package(name: str) -> None:
    """`import backends` from the repository would make a second copy of every class."""
    root = Path(mcld_core.__file__).resolve().parents[1]
    program = f"import sys; sys.path.insert(0, {str(root)!r}); import {name}"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode != 0
    assert f"mcld_core.{name}" in run.stderr or "No module named" in run.stderr


def test_the_loss_does_not_change_its_arguments() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 4, 3))
    labels, where = np.array([0, 1, 2, -100]), np.array([True, True, False, True])
    before = [x.copy() for x in (student, teacher, labels, where)]
    mcld_core.mcld_loss(student, teacher, labels, where=where)
    for old, new in zip(before, (student, teacher, labels, where), strict=True):
        np.testing.assert_array_equal(old, new)

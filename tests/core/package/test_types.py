"""What an editor knows: mypy and pyright check a user's calls (``nox -s typecheck``).

The user's file is checked beside a bare clone, with the framework's own types,
and those of types-tensorflow. A wrong type is an error of ``assert_type``, and an error that must
be there an unused ignore.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from mcld_core import mcld_loss
from tests.frameworks import REQUESTED

ROOT = Path(__file__).resolve().parents[3]
HEADS = {
    "numpy": "import numpy as np\nfrom numpy.typing import NDArray\nArray = NDArray[np.float32]",
    "torch": "from torch import Tensor as Array",
    "jax": "from jax import Array",
    "tensorflow": "from tensorflow import Tensor as Array",
}
CALLS = '''
from typing import Any, assert_type
from mcld_core import (
    adjust_logits, category_wise, dist_loss, dkd_loss, instance_wise, kd_loss, mcld_loss,
    sample_wise, select_classes,
)
from mcld_core.extensions.nlp import token_kd_loss
from mcld_core.extensions.teachers import bounded_loss, repair_rows

def calls(s: Array, t: Array, y: Array, some: bool, model: Any) -> None:
    assert_type(mcld_loss(s, t, y, progress=0.5), Array)
    assert_type(mcld_loss(s, t, return_terms=True), tuple[Array, dict[str, Array]])
    assert_type(mcld_loss(s, t, return_terms=some), Any)
    assert_type(instance_wise(s, t, y), Array)
    assert_type(sample_wise(s, t, y), Array)
    assert_type(category_wise(s, t, y, reduction="none"), Array)
    assert_type(kd_loss(s, t, temperature=2.0), Array)
    assert_type(dkd_loss(s, t, y, beta=2.0), Array)
    assert_type(dist_loss(adjust_logits(s, [1, 2, 3]), select_classes(t, [0, 1, 2])), Array)
    assert_type(token_kd_loss(s, t, y), Array)
    assert_type(bounded_loss(kd_loss(s, repair_rows(t, y, y), reduction="none"), 0.5), Array)
    mcld_loss(model(s), t).backward()  # what is not known stays so
    mcld_loss([[1.0]], [[1.0]]).item()  # a list too
    mcld_loss(s, t, colour="red")  # type: ignore[call-overload]
'''  # fmt: skip
OF_TORCH = """
from mcld_core.torch import MCLDLoss

def module(s: Array, t: Array, y: Array) -> None:
    assert_type(MCLDLoss(total_steps=10)(s, t, y), Array)
"""
OF_TENSORFLOW = """
import tensorflow as tf

def step(x: Array, t: Array, y: Array) -> Array:
    logits = tf.matmul(x, tf.random.normal([20, 10]))
    with tf.GradientTape() as tape:
        loss = mcld_loss(logits, t, y)
    assert_type(loss, Array)
    return tf.reduce_mean(loss)
"""
WRONG = """
def wrong(s: Array, t: Array) -> None:
    assert_type(kd_loss(s, t, temperature=2.0), int)
"""
"""The one error that is there to be found, in the last line."""
MORE = {"torch": OF_TORCH, "tensorflow": OF_TENSORFLOW}
CHECKED = [
    (name, checker)
    for checker, names in {"mypy": ("numpy", "torch", "tensorflow"), "pyright": HEADS}.items()
    for name in names
    if name in REQUESTED and (name, checker) != ("tensorflow", "pyright")
]
"""Each framework's types by one checker, and by both where most users are."""


def check(folder: Path, source: str, checker: str) -> str:
    """Return what the checker says of a user's file; nothing where it finds no fault."""
    (folder / "user.py").write_text(source)
    if checker == "mypy":
        cache = ROOT / ".mypy_cache" / "users"
        command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
        command += ["--cache-dir", str(cache), "--no-error-summary", "user.py"]
    else:
        source = f'{{"extraPaths": ["{ROOT}"], "enableTypeIgnoreComments": true}}'
        (folder / "pyrightconfig.json").write_text(source)
        command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
        command += ["--level", "error", "user.py"]
    run = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"MYPYPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stderr
    return run.stdout if run.returncode else ""


@pytest.mark.parametrize(("name", "checker"), CHECKED)
def test_a_user_s_calls_have_the_framework_s_types(tmp_path: Path, name: str, checker: str) -> None:
    source = HEADS[name] + CALLS + MORE.get(name, "")
    found = check(tmp_path, source + WRONG, checker)
    errors = [line for line in found.splitlines() if re.search(r"\berror:", line)]
    assert len(errors) == 1, found
    assert re.search(rf"user\.py:{(source + WRONG).count(chr(10))}:.*\bint\b", errors[0]), found


def test_the_types_have_all_arguments_of_the_function() -> None:
    plain, *others = typing.get_overloads(mcld_loss)
    own, shown = (inspect.signature(x).parameters for x in (mcld_loss, plain))
    assert list(shown) == list(own)
    defaults = ({name: p.default for name, p in x.items()} for x in (own, shown))
    assert next(defaults) == next(defaults)
    for other in others:  # they may take ``*rows`` and ``**settings``
        assert set(inspect.signature(other).parameters) - {"rows", "settings"} < set(own)

"""Where several frameworks are tested at once: they do not mix, and the report names them all."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

import mcld_core
from mcld_core import TeacherKeys, adjust_logits, kd_loss, mcld_loss
from tests.cases import make_case
from tests.frameworks import DIFFERENTIABLE, REQUESTED, load

CASE = make_case(121, weights=True, where=True)


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(DIFFERENTIABLE, 2)))
def test_two_frameworks_are_an_error_that_names_both(first: str, second: str) -> None:
    one, other = load(first), load(second)
    student, teacher = one.array(CASE.student), other.array(CASE.teacher)
    with pytest.raises(TypeError, match=r"^mcld_loss: .*to one framework") as error:
        mcld_loss(student, teacher)
    assert first in str(error.value)
    assert second in str(error.value)
    keys = TeacherKeys(teacher)
    for options in ({"labels": other.array(CASE.labels)}, {"keys": keys}):
        with pytest.raises(TypeError, match=rf"{first}.*{second}|{second}.*{first}"):
            mcld_loss(student, CASE.teacher, **options)
    with pytest.raises(TypeError, match=r"^kd_loss: "):
        kd_loss(student, teacher)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(DIFFERENTIABLE, 2)))
def test_a_class_prior_is_of_any_framework(first: str, second: str) -> None:
    student, counts = load(first).array(CASE.student), np.arange(1, CASE.student.shape[1] + 1)
    prior = load(second).array(counts)
    found = mcld_loss(student, student, class_prior=prior), adjust_logits(student, prior)
    expected = mcld_loss(student, student, class_prior=counts), adjust_logits(student, counts)
    for x, reference in zip(found, expected, strict=True):
        assert load(first).owns(x)
        np.testing.assert_array_equal(load(first).to_numpy(x), load(first).to_numpy(reference))


@pytest.mark.parametrize("names", [REQUESTED] if len(REQUESTED) > 1 else [], ids=["all"])
def test_the_report_names_versions_devices_and_backends(names: list[str]) -> None:
    environment = os.environ | {"MCLD_BACKEND": "numpy"}
    run = subprocess.run(
        [sys.executable, "-m", "mcld_core"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert mcld_core.__version__ in run.stdout
    lines = {line.split()[0]: line for line in run.stdout.splitlines() if line.strip()}
    for name in names:
        assert importlib.metadata.version(name) in lines[name]
        if name not in ("numpy", "keras"):
            assert "cpu" in lines[name].lower()
    assert "MCLD_BACKEND" in run.stdout

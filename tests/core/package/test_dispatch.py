"""Which backend computes: the tensors decide, MCLD_BACKEND and set_backend for plain arrays."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import mcld_core
from mcld_core import TeacherBank, TeacherKeys, kd_loss, mcld_loss
from mcld_core.__main__ import main
from tests import oracles
from tests.cases import make_case
from tests.core.package.test_import import imported_by
from tests.frameworks import ARRAY_BACKENDS, Framework, only
from tests.tolerance import assert_value

CASE = make_case(121, weights=True, where=True)
EXPECTED = oracles.mcld_loss(CASE)


@pytest.fixture(autouse=True)
def _no_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without a default for plain arrays, and leave none behind."""
    monkeypatch.delenv("MCLD_BACKEND", raising=False)
    yield
    mcld_core.set_backend(None)


def plain_loss() -> Any:
    """The loss of plain arrays."""
    return mcld_loss(
        CASE.student,
        CASE.teacher,
        CASE.labels,
        sample_weight=CASE.sample_weight,
        where=CASE.where,
    )


def test_the_tensors_decide(backend: Framework) -> None:
    loss = kd_loss(backend.array(CASE.student), backend.array(CASE.teacher))
    assert backend.owns(loss)
    assert_value(backend.to_numpy(loss), oracles.kd_loss(CASE.but(where=None, sample_weight=None)))


def test_numpy_arrays_and_lists_stand_beside_tensors(differentiable: Framework) -> None:
    keys = TeacherKeys(CASE.teacher, CASE.labels, np.ones(5, bool))
    student = differentiable.array(CASE.student)
    for convert in (np.asarray, lambda x: np.asarray(x).tolist()):
        loss = mcld_loss(
            student,
            convert(CASE.teacher),
            convert(CASE.labels),
            keys=keys,
            sample_weight=convert(CASE.sample_weight),
            where=convert(CASE.where),
            progress=np.float64(1.0),
        )
        assert differentiable.owns(loss)
        assert_value(differentiable.to_numpy(loss), EXPECTED, "float32")


@pytest.mark.usefixtures("backend")
def test_plain_arrays_are_numpys_without_a_default() -> None:
    loss = plain_loss()
    assert isinstance(loss, (np.ndarray, np.generic))
    assert loss.dtype == np.float64
    assert_value(loss, EXPECTED)
    lists = mcld_loss(CASE.student.tolist(), CASE.teacher.tolist(), CASE.labels.tolist())
    assert isinstance(lists, (np.ndarray, np.generic))
    assert mcld_core.get_backend() == "numpy"


def test_the_environment_chooses_for_plain_arrays(
    backend: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCLD_BACKEND", backend.name)
    loss = plain_loss()
    assert backend.owns(loss)
    assert_value(backend.to_numpy(loss), EXPECTED, backend.dtype(loss))
    assert backend.owns(TeacherBank.empty(2, 3, like=np.zeros(1)).vectors)


def test_set_backend_goes_before_the_environment(
    differentiable: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCLD_BACKEND", "numpy")
    mcld_core.set_backend(differentiable.name)
    assert differentiable.owns(plain_loss())
    mcld_core.set_backend(None)
    assert isinstance(plain_loss(), (np.ndarray, np.generic))


def test_a_default_does_not_move_tensors(differentiable: Framework) -> None:
    mcld_core.set_backend("numpy")
    student = differentiable.array(CASE.student)
    assert differentiable.owns(mcld_loss(student, CASE.teacher))


def test_an_unknown_name_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    known = r"numpy.*torch.*tensorflow.*jax.*'mxnet'"
    with pytest.raises(ValueError, match=rf"^set_backend: .*{known}"):
        mcld_core.set_backend("mxnet")
    monkeypatch.setenv("MCLD_BACKEND", "mxnet")
    with pytest.raises(ValueError, match=rf"MCLD_BACKEND.*{known}"):
        plain_loss()


@pytest.mark.parametrize("name", [name for name in ARRAY_BACKENDS if name != "numpy"])
def test_a_backend_imports_its_framework_and_no_other(name: str) -> None:
    """And so a heavy import is seen. (TensorFlow may bring Keras, and Keras JAX, by itself.)"""
    by_itself = imported_by(f"import {name}")
    assert name in by_itself
    found = imported_by(f"import mcld_core; mcld_core.set_backend({name!r})")
    assert found == by_itself


def test_what_the_command_line_answers(capsys: pytest.CaptureFixture[str]) -> None:
    version = f"mcld {mcld_core.__version__}\n"
    answers = {"--version": version, "-h": "versions, devices and", "no": "choice: 'no'"}
    for argument, text in answers.items():
        with pytest.raises(SystemExit) as error:
            main([argument])
        said = capsys.readouterr()
        assert (error.value.code, text in said.out + said.err) == (2 * (argument == "no"), True)


def test_the_report_of_a_module_whose_distribution_has_another_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As onnxruntime-gpu and tensorflow-cpu have."""

    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "numpy" or None)
    assert main([]) == 0
    said = capsys.readouterr().out
    assert np.__version__ in said
    for extras in ("torch", "keras,jax", "onnx"):
        assert f"not installed: in a clone of MCLD, pip install '.[{extras}]'" in said


@pytest.mark.parametrize("backend", only("torch"), indirect=True)
def test_torch_parameters_and_subclasses_are_tensors(backend: Framework) -> None:
    import torch

    parameter = torch.nn.Parameter(backend.array(CASE.student))
    loss = mcld_loss(parameter, CASE.teacher, CASE.labels)
    loss.backward()
    assert parameter.grad is not None
    assert parameter.grad.abs().max() > 0

    class Tagged(torch.Tensor):
        pass

    tagged = backend.array(CASE.student).as_subclass(Tagged)
    assert isinstance(mcld_loss(tagged, CASE.teacher, CASE.labels), torch.Tensor)

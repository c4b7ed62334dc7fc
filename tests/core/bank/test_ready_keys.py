"""Keys that are ready: a bank of probabilities gives the loss of a bank of logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, TeacherBank, TeacherKeys, mcld_loss
from tests.cases import make_case
from tests.core.bank.banks import CLASSES, arrays, batches, empty
from tests.frameworks import Framework
from tests.tolerance import assert_gradient, assert_value


def softmax(rows: np.ndarray) -> np.ndarray:
    exponentials = np.exp(rows - rows.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def filled(backend: Framework, ready: bool) -> TeacherBank:
    """Return a bank after some batches; the rows that are dropped hold no numbers."""
    bank = empty(backend, 9)
    for rows, labels, keep, ids in batches(81, (4, 5, 3)):
        rows = softmax(rows) if ready else rows
        rows[~keep | (labels == -100)] = np.nan
        given = arrays(backend, (rows, labels, keep, ids))
        bank = bank.push(*given[:2], where=given[2], index=given[3])
    return bank


def keys_of(bank: TeacherBank, *rows: Any, where: Any = None) -> TeacherKeys:
    """Return the keys of a bank of probabilities."""
    keys = bank.keys(*rows, where=where)
    return keys._replace(logits=None, probabilities=keys.logits)


@pytest.mark.parametrize("contrast", ["labels", "prototypes", "columns"])
@pytest.mark.parametrize("capacity", [0, 9])
def test_the_loss_is_that_of_logits(backend: Framework, contrast: str, capacity: int) -> None:
    case, config = make_case(82), MCLDConfig(category_contrast=contrast)
    where = np.array([True, False, True, True, True])
    rows = case.student, case.teacher, case.labels, where, softmax(case.teacher)
    student, teacher, labels, kept, probabilities = arrays(backend, rows)

    def loss(student: Any, bank: TeacherBank, ready: bool) -> Any:
        keys = (
            keys_of(bank, probabilities, labels, where=kept)
            if ready
            else bank.keys(teacher, labels, where=kept)
        )
        return mcld_loss(student, teacher, labels, config=config, keys=keys, where=kept)

    def found(ready: bool, compiled: bool) -> tuple[Any, ...]:
        bank = filled(backend, ready) if capacity else empty(backend, 3)
        if backend.name == "numpy":
            return (loss(student, bank, ready),)

        def gradient(bank: TeacherBank) -> tuple[Any, Any]:
            return backend.gradient(lambda s: loss(s, bank, ready), student)

        return (backend.jit(gradient) if compiled else gradient)(bank)

    expected = [backend.to_numpy(x) for x in found(False, False)]
    for compiled in (False, backend.name != "torch"):
        values = [backend.to_numpy(x) for x in found(True, compiled)]
        assert np.isfinite(values[0])
        assert_value(values[0], expected[0], "float32")
        for value, reference in zip(values[1:], expected[1:], strict=True):
            assert_gradient(value, reference, "float32")


def test_probabilities_serve_the_default_keys_alone(backend: Framework) -> None:
    case, bank = make_case(83), filled(backend, True)
    student, teacher, labels = arrays(backend, (case.student, case.teacher, case.labels))
    keys = keys_of(bank, teacher, labels)
    for settings, came in (({"similarity": "dot"}, "'dot' at 1"), ({"key_temperature": 2}, "at 2")):
        config = MCLDConfig(**settings)
        with pytest.raises(ValueError, match=rf"^mcld_loss: probabilities serve .*{came}"):
            mcld_loss(student, teacher, labels, config=config, keys=keys)
    both = keys._replace(logits=keys.probabilities)
    with pytest.raises(ValueError, match=r"^mcld_loss: keys need .*; got both"):
        mcld_loss(student, teacher, labels, keys=both)
    narrow = TeacherKeys(None, probabilities=keys.probabilities[:, 1:])
    with pytest.raises(
        ValueError, match=rf"^mcld_loss: .*probabilities need shape \(rows, {CLASSES}\)"
    ):
        mcld_loss(student, teacher, labels, keys=narrow)

"""ReadyBank against TeacherBank: the same keys, made once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, ReadyBank, TeacherBank, TeacherKeys, mcld_loss
from tests.cases import make_case
from tests.core.bank.banks import CLASSES, arrays, batches, empty
from tests.frameworks import Framework, only
from tests.tolerance import assert_gradient, assert_value


def filled(backend: Framework, kind: type[TeacherBank], dtype: str = "float32") -> TeacherBank:
    """Return a bank after some batches; the rows that are dropped hold no numbers."""
    bank = kind.empty(9, CLASSES, like=backend.array(np.zeros(1), dtype))
    for rows, labels, keep, ids in batches(81, (4, 5, 3)):
        rows[~keep | (labels == -100)] = np.nan
        given = arrays(backend, (rows, labels, keep, ids))
        bank = bank.push(*given[:2], where=given[2], index=given[3])
    return bank


@pytest.mark.parametrize("contrast", ["labels", "prototypes", "columns"])
def test_the_loss_is_that_of_a_teacher_bank(backend: Framework, contrast: str) -> None:
    case, config = make_case(82), MCLDConfig(category_contrast=contrast)
    where = np.array([True, False, True, True, True])
    case.teacher[~where] = np.inf
    student, teacher, labels, kept = arrays(
        backend, (case.student, case.teacher, case.labels, where)
    )

    def loss(student: Any, teacher: Any, labels: Any, kept: Any, bank: TeacherBank) -> Any:
        keys = bank.keys(teacher, labels, where=kept)
        return mcld_loss(student, teacher, labels, config=config, keys=keys, where=kept)

    def found(bank: TeacherBank, compiled: bool) -> tuple[Any, ...]:
        if backend.name == "numpy":
            return (loss(student, teacher, labels, kept, bank),)

        def gradient(bank: TeacherBank) -> tuple[Any, Any]:
            return backend.gradient(lambda s: loss(s, teacher, labels, kept, bank), student)

        return (backend.jit(gradient) if compiled else gradient)(bank)

    expected = [backend.to_numpy(x) for x in found(filled(backend, TeacherBank), False)]
    for compiled in (False, backend.name != "torch"):
        values = [backend.to_numpy(x) for x in found(filled(backend, ReadyBank), compiled)]
        assert np.isfinite(values[0])
        assert_value(values[0], expected[0], "float32")
        for value, reference in zip(values[1:], expected[1:], strict=True):
            assert_gradient(value, reference, "float32")


def test_rows_are_probabilities_of_kept_rows(backend: Framework) -> None:
    ready, plain = filled(backend, ReadyBank), filled(backend, TeacherBank)
    assert type(ready) is ReadyBank
    exponentials = np.exp(backend.to_numpy(plain.vectors))
    where = backend.to_numpy(plain.where)
    expected = where[:, None] * exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(backend.to_numpy(ready.vectors), expected, rtol=1e-5)
    for ours, theirs in zip(ready[1:], plain[1:], strict=True):
        np.testing.assert_array_equal(backend.to_numpy(ours), backend.to_numpy(theirs))
    means = (bank.class_means() for bank in (ready, plain))
    np.testing.assert_allclose(*(backend.to_numpy(x) for x in means), rtol=1e-5)


@pytest.mark.parametrize("backend", only("jax", "tensorflow", "torch"), indirect=True)
def test_a_pytree_of_its_own_kind(backend: Framework) -> None:
    bank = filled(backend, ReadyBank)
    if backend.name == "torch":
        from torch.utils._pytree import tree_map
    elif backend.name == "jax":
        from jax.tree import map as tree_map
    else:
        from tensorflow.nest import map_structure as tree_map
    assert type(tree_map(lambda x: x, bank)) is ReadyBank
    assert type(backend.jit(lambda bank: bank)(bank)) is ReadyBank


def test_probabilities_serve_the_default_keys_alone(backend: Framework) -> None:
    case, bank = make_case(83), filled(backend, ReadyBank)
    student, teacher, labels = arrays(backend, (case.student, case.teacher, case.labels))
    keys = bank.keys(teacher, labels)
    for settings, came in (({"similarity": "dot"}, "'dot' at 1"), ({"key_temperature": 2}, "at 2")):
        config = MCLDConfig(**settings)
        with pytest.raises(ValueError, match=rf"^mcld_loss: probabilities serve .*{came}"):
            mcld_loss(student, teacher, labels, config=config, keys=keys)
        with pytest.raises(ValueError, match=rf"^TeacherBank.class_means: prob.*{came}"):
            bank.class_means(config)
    both = keys._replace(logits=keys.probabilities)
    with pytest.raises(ValueError, match=r"^mcld_loss: keys need .*; got both"):
        mcld_loss(student, teacher, labels, keys=both)
    narrow = TeacherKeys(None, probabilities=keys.probabilities[:, 1:])
    with pytest.raises(ValueError, match=r"^mcld_loss: keys.probabilities need shape \(keys, 4\)"):
        mcld_loss(student, teacher, labels, keys=narrow)


def test_an_empty_ready_bank_adds_no_key(backend: Framework) -> None:
    case = make_case(85)
    student, teacher, labels = arrays(backend, (case.student, case.teacher, case.labels))
    bank = ReadyBank(*empty(backend, 3))
    found = mcld_loss(student, teacher, labels, keys=bank.keys(teacher, labels))
    expected = mcld_loss(student, teacher, labels)
    assert_value(backend.to_numpy(found), backend.to_numpy(expected), "float32")

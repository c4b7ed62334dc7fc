"""Labels that the contrasts compare, and nothing else: ids of anything, soft ones of any width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, TeacherKeys, category_wise, instance_wise, mcld_loss
from tests.frameworks import Framework
from tests.tolerance import assert_gradient, assert_value

RNG = np.random.default_rng(3)
STUDENT, TEACHER, MORE = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 3)), RNG.normal(size=(4, 3))
GROUPS, OTHERS = np.array([0, 1, 2, 0, 1, 2]), np.array([2, 2, 0, 1])
COMPARING = MCLDConfig(weight_sample=0.0)
LOSSES = [instance_wise, category_wise, lambda *rows, **o: mcld_loss(*rows, config=COMPARING, **o)]


def found(backend: Framework, loss: Any, labels: Any, key_labels: Any) -> Any:
    teacher = backend.array(TEACHER, "float64")
    rows = backend.array(np.concatenate([TEACHER, MORE]), "float64")
    keys = TeacherKeys(rows, backend.array(key_labels, "float64"))
    given = backend.array(labels, "float64")
    if backend.name == "numpy":
        return loss(STUDENT, teacher, given, keys=keys), np.zeros(1)
    return backend.value_and_grad(lambda s: loss(s, teacher, given, keys=keys), STUDENT)


@pytest.mark.parametrize("loss", LOSSES, ids=["instance", "category", "both"])
@pytest.mark.parametrize("names", [[5, 700, 3], [0, 2**32, 1], [2**40 + 1, 1, 2**40]], ids=str)
def test_ids_of_any_size_are_those_of_the_classes(
    backend: Framework, loss: Any, names: list[int]
) -> None:
    groups = np.concatenate([GROUPS, OTHERS])
    value, gradient = found(backend, loss, GROUPS, groups)
    ids = np.array(names)
    other, other_gradient = found(backend, loss, ids[GROUPS], ids[groups])
    assert_value(other, value)
    assert_gradient(other_gradient, gradient)


@pytest.mark.parametrize("loss", LOSSES, ids=["instance", "category", "both"])
def test_an_id_beyond_32_bits_is_none_of_32(backend: Framework, loss: Any) -> None:
    keys = np.concatenate([GROUPS, OTHERS])
    far = np.where(np.arange(10) < 6, keys, keys + 2**32)
    apart = np.where(np.arange(10) < 6, keys, 9)
    value, gradient = found(backend, loss, GROUPS.astype("int32"), apart)
    other, other_gradient = found(backend, loss, GROUPS.astype("int32"), far)
    assert_value(other, value)
    assert_gradient(other_gradient, gradient)


@pytest.mark.parametrize("loss", LOSSES, ids=["instance", "category", "both"])
def test_soft_labels_of_another_width(backend: Framework, loss: Any) -> None:
    soft, keys = np.eye(5)[GROUPS], np.eye(5)[np.concatenate([GROUPS, OTHERS])]
    value, gradient = found(backend, loss, GROUPS, np.concatenate([GROUPS, OTHERS]))
    other, other_gradient = found(backend, loss, soft, keys)
    assert_value(other, value)
    assert_gradient(other_gradient, gradient)
    with pytest.raises(ValueError, match=r"labels and keys.labels need the same width .*\(6, 5\)"):
        found(backend, loss, soft, keys[:, :4])


@pytest.mark.parametrize("settings", [{}, {"weight_sample": 0.0, "weight_ce": 1.0}], ids=str)
def test_a_label_that_is_a_class_stays_in_its_range(
    no_default_backend: None, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="labels needs labels in 0 … 2"):
        mcld_loss(STUDENT, TEACHER, GROUPS + 1, config=MCLDConfig(**settings))
    config = MCLDConfig(category_contrast="prototypes")
    with pytest.raises(ValueError, match="labels needs labels in 0 … 2"):
        category_wise(STUDENT, TEACHER, GROUPS + 1, config=config)

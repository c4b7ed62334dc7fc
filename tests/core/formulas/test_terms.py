"""The three terms against their definitions, row by row, for every reading and label kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mcld_core
from mcld_core import category_wise, instance_wise, sample_wise
from tests import oracles
from tests.cases import make_case, value
from tests.frameworks import Framework
from tests.oracles import Case
from tests.tolerance import assert_value

TERMS = {
    "instance_wise": (instance_wise, oracles.instance_wise),
    "category_wise": (category_wise, oracles.category_wise),
    "sample_wise": (sample_wise, oracles.sample_wise),
}
SETTINGS = [
    ("instance_wise", {}),
    ("instance_wise", {"target_mask": False}),
    ("instance_wise", {"temperature": 0.5, "key_temperature": 2.0}),
    ("category_wise", {}),
    ("category_wise", {"temperature": 0.5, "key_temperature": 2.0}),
    ("category_wise", {"category_contrast": "prototypes"}),
    ("category_wise", {"category_contrast": "prototypes", "similarity": "pearson"}),
    ("category_wise", {"category_contrast": "columns"}),
    ("category_wise", {"category_contrast": "columns", "key_temperature": 2.0}),
    ("sample_wise", {}),
    ("sample_wise", {"beta": 8.0, "sample_temperature": 1.0}),
    ("sample_wise", {"beta": 0.0}),
    ("sample_wise", {"sample_target_mask": False}),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("labels", ["int", "soft", "none"])
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_term_equals_its_definition(
    backend: Framework, name: str, settings: dict[str, Any], labels: str, dtype: str
) -> None:
    library, oracle = TERMS[name]
    case = make_case(7, batch=7, labels=labels, weights=True, where=True)
    found = value(backend, library, case, dtype, settings, reduction="none")
    expected = oracle(case, "none", **settings)
    assert_value(found, expected, dtype, oracles.scale(case, **settings))


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "bool"])
def test_label_dtypes(backend: Framework, kind: str) -> None:
    """Class numbers of any integer dtype; a 2-D one-hot of ints or bools counts as soft."""
    case = make_case(12)
    expected = oracles.mcld_loss(case)
    one_hot = case.but(labels=np.eye(case.teacher.shape[1])[case.labels].astype(kind))
    assert_value(value(backend, mcld_core.mcld_loss, one_hot), expected)
    if kind != "bool":
        cast = case.but(labels=case.labels.astype(kind))
        assert_value(value(backend, mcld_core.mcld_loss, cast), expected)


def test_soft_labels_of_nearly_one_do_not_become_negatives(backend: Framework) -> None:
    """1 − A ≤ 1e-6 counts as 0 in every dtype; 1 − A just above it counts as it is."""
    student = np.array([[40.0, 0.0], [0.0, 0.0]])
    teacher = np.array([[-8.0, 8.0], [8.0, -8.0]])
    for off, is_negative in ((2e-7, False), (1e-4, True)):
        labels = np.array([[1.0, 0.0], [1.0 - off, off]])
        case = Case(student, teacher, labels)
        for dtype in ("float32", "float64"):
            found = value(backend, instance_wise, case, dtype, reduction="none")
            assert (found[0] > 1.0) == is_negative, f"1 - A = {off} in {dtype}: {found}"

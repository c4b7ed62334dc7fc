"""Settings that make no sense are refused by name; odd but right ones give right numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import mcld_core
from mcld_core import MCLDConfig, TeacherBank, TeacherKeys, category_wise, kd_loss, mcld_loss
from mcld_core.extensions.nlp import TopKLogits
from mcld_core.typing import Array
from tests.frameworks import Framework

LABELS = np.arange(3)
CALLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"progress": 1.5}, ValueError, "progress needs a finite number in 0 … 1; got 1.5"),
    ({"progress": np.float32(2)}, ValueError, "progress needs a finite number in 0 … 1; got 2.0"),
    ({"progress": -0.1}, ValueError, "progress needs a finite number in 0 … 1; got -0.1"),
    ({"progress": 1j}, TypeError, "progress needs a finite number in 0 … 1; got 1j"),
    ({"progress": np.ones(3)}, ValueError, "progress needs one number; got shape (3,)"),
    ({"config": {}}, TypeError, "config needs an MCLDConfig; got {}"),
    ({"config": None}, TypeError, "config needs an MCLDConfig; got None"),
    ({"config": MCLDConfig}, TypeError, "config needs an MCLDConfig; got the class MCLDConfig"),
    ({"normalizer": np.nan}, ValueError, "keys.normalizer needs a finite number ≥ 0; got nan"),
    ({"normalizer": -1.0}, ValueError, "keys.normalizer needs a finite number ≥ 0; got -1.0"),
    ({"normalizer": np.ones(3)}, ValueError, "keys.normalizer needs one number; got shape (3,)"),
    ({"own_start": 1.5}, TypeError, "keys.own_start needs one int; got 1.5"),
    ({"own_start": "a"}, TypeError, "keys.own_start needs one int; got 'a'"),
    ({"own_start": [0, 0]}, TypeError, "keys.own_start needs one int; got [0, 0]"),
    ({"teacher": None}, TypeError, "teacher_logits needs an array of numbers; got None"),
    ({"teacher": {}}, TypeError, "teacher_logits needs an array of numbers; got dict"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "text"), CALLS, ids=[str(call[0]) for call in CALLS])
def test_what_a_loss_refuses(
    backend: Framework, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    options = dict(options)
    student, teacher = backend.array(np.eye(3)), backend.array(5 * np.eye(3))
    beside = {name: options.pop(name) for name in ("normalizer", "own_start") if name in options}
    if beside:
        options["keys"] = TeacherKeys(teacher, backend.array(LABELS), **beside)
    teacher = options.pop("teacher", teacher)
    with pytest.raises(error, match=re.escape(f"mcld_loss: {text}")):
        mcld_loss(student, teacher, backend.array(LABELS), **options)


def test_a_stored_teacher_and_a_missing_label_are_named(backend: Framework) -> None:
    student = backend.array(np.eye(3))
    stored = TopKLogits.from_logits(np.eye(3)[None], 2)
    with pytest.raises(TypeError, match="teacher_logits needs an array of numbers; got TopKLogits"):
        kd_loss(student, stored)
    with pytest.raises((TypeError, ValueError), match="mcld_loss: labels"):
        mcld_loss(student, student, [0, None, 1])


@pytest.mark.parametrize("name", ["dkd_loss", "nkd_loss", "rld_loss"])
def test_an_ignore_index_is_an_int(backend: Framework, name: str) -> None:
    rows = backend.array(np.eye(3))
    with pytest.raises(TypeError, match=rf"{name}: ignore_index needs an int; got 1\.5"):
        getattr(mcld_core, name)(rows, rows, backend.array(LABELS), ignore_index=1.5)


def test_a_bank_names_wrong_settings(backend: Framework) -> None:
    bank = TeacherBank.from_logits(backend.array(np.eye(3)), backend.array(LABELS))
    with pytest.raises(TypeError, match=r"TeacherBank\.class_means: config needs an MCLDConfig"):
        bank.class_means({})
    with pytest.raises(TypeError, match=r"TeacherBank\.push: ignore_index needs an int"):
        bank.push(backend.array(np.eye(3)), backend.array(LABELS), ignore_index=None)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"target_mask": "no"}, TypeError, "target_mask needs True or False; got 'no'"),
        ({"soft_targets": 1}, TypeError, "soft_targets needs True or False; got 1"),
        ({"ignore_index": -1.5}, TypeError, "ignore_index needs an int; got -1.5"),
        ({"block_size": True}, ValueError, "block_size needs 'auto', None or an int > 0; got True"),
        ({"weight_sample": "a"}, TypeError, "weight_sample needs a finite number ≥ 0; got 'a'"),
        ({"weight_sample": np.ones(3)}, ValueError, "weight_sample needs one number; got shape"),
    ],
)
def test_what_the_settings_refuse(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(f"MCLDConfig: {text}")):
        MCLDConfig(**options)


def test_a_temperature_a_row_is_refused(backend: Framework) -> None:
    logits = backend.array(np.eye(3))
    with pytest.raises(ValueError, match=r"kd_loss: temperature needs one number; got"):
        kd_loss(logits, logits, temperature=np.ones(3))


def test_a_ramp_of_zero_leaves_the_term_reported(backend: Framework) -> None:
    logits = [backend.array(factor * np.eye(3)) for factor in (1, 5)]
    reported = [
        mcld_loss(*logits, backend.array(LABELS), progress=progress, return_terms=True)[1]
        for progress in (0.0, 1.0)
    ]
    found = [float(backend.to_numpy(terms["category"])) for terms in reported]
    assert found[0] == pytest.approx(0.55995, abs=1e-4)
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("block_size", ["auto", None, 1])
@pytest.mark.parametrize("gap", [10.0, 20.0])
def test_one_certain_positive_keeps_the_digits_of_its_gradient(
    differentiable: Framework, gap: float, block_size: Any
) -> None:
    """With keys that are one-hot it is ``(softmax(s) - e_y) / B``; at y, ``-Σ_rest softmax``."""
    student = (gap * np.eye(3)).astype("float32")
    teacher = differentiable.array((200 * np.eye(3)).astype("float32"))
    config = MCLDConfig(block_size=block_size)

    def loss(x: Array) -> Any:
        return category_wise(x, teacher, differentiable.array(LABELS), config=config)

    _, gradient = differentiable.value_and_grad(loss, student, "float32")
    odds = np.exp(-gap)
    rest = odds / (1 + 2 * odds) / 3
    expected = rest * (np.ones((3, 3)) - 3 * np.eye(3))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)

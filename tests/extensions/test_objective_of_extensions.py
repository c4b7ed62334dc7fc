"""What the extensions hand to the public terms: the class prior, and numbers that are trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.extensions.multimodal import embedding_contrast, multimodal_mcld_loss
from mcld_core.extensions.nlp import token_mcld_loss
from mcld_core.extensions.teachers import adaptive_mcld_loss
from tests.differences import slope
from tests.frameworks import Framework
from tests.tolerance import assert_central, assert_gradient, assert_value

BATCH, CLASSES = 5, 3
RNG = np.random.default_rng(12)
STUDENT, TEACHER = RNG.normal(size=(2, BATCH, CLASSES))
LABELS = np.array([0, 1, 0, 2, 0])
PRIOR = np.array([5.0, 1.0, 2.0])
TRUST = np.linspace(0.0, 1.0, BATCH)
WITH_PRIOR = {
    "adaptive_mcld_loss": lambda s, t, y, r, prior: adaptive_mcld_loss(
        s, t, y, reliability=0.0 * r + 1.0, class_prior=prior
    ),
    "multimodal_mcld_loss": lambda s, t, y, r, prior: multimodal_mcld_loss(
        {"image": s}, {"text": t}, y, class_prior=prior
    ),
}


@pytest.mark.parametrize("name", WITH_PRIOR)
def test_the_class_prior_reaches_the_contrasts(differentiable: Framework, name: str) -> None:
    backend, call = differentiable, WITH_PRIOR[name]
    teacher, trust, prior = (backend.array(x, "float64") for x in (TEACHER, TRUST, PRIOR))
    labels = backend.array(LABELS)
    found = backend.value_and_grad(lambda s: call(s, teacher, labels, trust, prior), STUDENT)
    expected = backend.value_and_grad(
        lambda s: mcld_loss(s, teacher, labels, class_prior=prior), STUDENT
    )
    without = backend.value_and_grad(lambda s: mcld_loss(s, teacher, labels), STUDENT)
    assert abs(expected[0] - without[0]) > 0.01
    assert_value(found[0], expected[0], scale=16.0)
    assert_gradient(found[1], expected[1], scale=16.0)


def adaptive(backend: Framework, settings: dict[str, Any]) -> Any:
    student, teacher, trust = (backend.array(x, "float64") for x in (STUDENT, TEACHER, TRUST))
    labels, config = backend.array(LABELS), MCLDConfig(**settings)
    return adaptive_mcld_loss(student, teacher, labels, reliability=trust, config=config)


def embeddings(backend: Framework, settings: dict[str, Any]) -> Any:
    student, teacher = (backend.array(x, "float64") for x in (STUDENT, TEACHER))
    temperature = settings.pop("temperature", 0.5)
    config = MCLDConfig(**settings)
    labels = backend.array(LABELS)
    return embedding_contrast(student, teacher, labels, config=config, temperature=temperature)


def tokens(backend: Framework, settings: dict[str, Any]) -> Any:
    student, teacher = (backend.array(x[:, None], "float64") for x in (STUDENT, TEACHER))
    arrays = (student, teacher, backend.array(LABELS[:, None]))
    return token_mcld_loss(*arrays, config=MCLDConfig(**settings), token_contrast=0.5)


@pytest.mark.parametrize(
    ("call", "name"),
    [(tokens, "key_temperature"), (adaptive, "weight_instance"), (adaptive, "weight_sample"),
     (adaptive, "weight_category"), (adaptive, "weight_ce"), (adaptive, "sample_temperature"),
     (embeddings, "weight_instance"), (embeddings, "weight_category"), (embeddings, "temperature")],
)  # fmt: skip
@pytest.mark.parametrize("block_size", ["auto", 2])
def test_a_trained_number_has_its_gradient(
    differentiable: Framework, call: Any, name: str, block_size: Any
) -> None:
    backend, at = differentiable, 0.75

    def loss(value: Any) -> Any:
        return call(backend, {name: value, "block_size": block_size})

    value, gradient = backend.value_and_grad(loss, np.asarray(at))
    assert_value(value, backend.to_numpy(loss(at)), scale=16.0)
    expected = slope(lambda number: backend.to_numpy(loss(number)), at)
    assert_central(gradient, expected, 16.0)
    assert abs(expected) > 1e-3

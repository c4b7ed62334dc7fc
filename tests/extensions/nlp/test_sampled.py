"""On-policy: the teacher's log-probability of the tokens that the student drew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcld_core.extensions.nlp import sampled_token_kd_loss
from tests.differences import differences
from tests.extensions.cases import CLASSES, make_case
from tests.extensions.oracles import valid_places
from tests.extensions.token_oracles import kd_row, sampled_row
from tests.frameworks import Framework
from tests.oracles.rows import log_softmax
from tests.tolerance import assert_central, assert_value


def scores(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The log-probability of each token."""
    found = np.zeros(tokens.shape)
    for place in np.ndindex(*tokens.shape):
        found[place] = log_softmax(logits[place].tolist())[max(int(tokens[place]), 0)]
    return found


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("shift", [False, True])
def test_values(backend: Framework, shift: bool, stale: bool) -> None:
    case = make_case(40)
    given = scores(case.teacher, case.labels)
    old = scores(case.student + 0.3 * case.teacher, case.labels) if stale else None
    found = sampled_token_kd_loss(
        *(backend.array(x) for x in (case.student, case.labels, given)),
        old_logprobs=backend.array(old),
        attention_mask=backend.array(case.mask),
        shift=shift,
    )
    rows = []
    for b, i in valid_places(case.mask, case.labels, shift):
        j = i + shift
        before = None if old is None else float(old[b, j])
        token, score = int(case.labels[b, j]), float(given[b, j])
        rows.append(sampled_row(case.student[b, i].tolist(), token, score, before))
    assert_value(backend.to_numpy(found), np.mean(rows), scale=10.0)


def draws(count: int) -> tuple[Any, ...]:
    """Logits of one token, tokens that the student drew, and the scores of both models."""
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 1, 1, CLASSES))
    p = np.exp(log_softmax(student[0, 0].tolist()))
    tokens = rng.choice(CLASSES, (1, count), p=p / p.sum())
    log_p, log_q = (np.asarray(log_softmax(x[0, 0].tolist()))[tokens] for x in (teacher, student))
    return student, teacher, tokens, log_p, log_q


def test_many_draws_give_the_gradient_of_reverse_kl(differentiable: Framework) -> None:
    """Within four standard errors of 40,000 draws; what is drawn by an older student likewise."""
    from mcld_core.backends import backend_for

    student, teacher, tokens, log_p, log_q = draws(40_000)
    exact = differences(
        lambda x: kd_row(x[0, 0].tolist(), teacher[0, 0].tolist(), divergence_name="reverse"),
        student,
    )
    older = student
    student = student + 0.3 * teacher
    moved = differences(
        lambda x: kd_row(x[0, 0].tolist(), teacher[0, 0].tolist(), divergence_name="reverse"),
        student,
    )
    array = differentiable.array
    for at, old, reference in ((older, None, exact), (student, log_q, moved)):

        def loss(x: Any, old: Any = old) -> Any:
            ones = array(np.ones((1, tokens.shape[1], 1)))
            return sampled_token_kd_loss(
                x * ones, array(tokens), array(log_p), old_logprobs=array(old)
            )

        _, gradient = differentiable.value_and_grad(loss, at)
        q = np.exp(log_softmax(at[0, 0].tolist()))
        now = np.asarray(log_softmax(at[0, 0].tolist()))[tokens[0]]
        weight = (now - log_p[0]) * (1.0 if old is None else np.exp(now - log_q[0]))
        each = weight[:, None] * (np.eye(CLASSES)[tokens[0]] - q)
        error = each.std(0) / np.sqrt(tokens.shape[1])
        assert (abs(gradient[0, 0] - reference[0, 0]) < 4 * error).all()
    assert backend_for("test", array(tokens)).name == differentiable.name


def test_gradient_of_a_call(differentiable: Framework) -> None:
    """The factor is held; the rest is the cross-entropy's."""
    case = make_case(41)
    given = scores(case.teacher, case.labels)
    held = scores(case.student, case.labels) - given

    def reference(x: np.ndarray) -> float:
        values = held * scores(x, case.labels)
        return float(
            np.mean([values[place] for place in valid_places(case.mask, case.labels, False)])
        )

    arrays = [differentiable.array(x) for x in (case.labels, given, case.mask)]
    _, gradient = differentiable.value_and_grad(
        lambda x: sampled_token_kd_loss(x, arrays[0], arrays[1], attention_mask=arrays[2]),
        case.student,
    )
    assert_central(gradient, differences(reference, case.student), 10.0)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"teacher_logprobs": np.zeros((4, 2))}, r"teacher_logprobs needs shape \(4, 3\)"),
    ({"old_logprobs": np.zeros((4, 3, 1))}, r"old_logprobs needs shape \(4, 3\)"),
    ({"teacher_logprobs": np.full((4, 3), -np.inf)}, "teacher_logprobs needs finite numbers"),
    ({"tokens": np.full((4, 3), 9)}, "tokens needs labels in 0 … 4"),
]


@pytest.mark.parametrize(("given", "text"), BAD, ids=[text for _, text in BAD])
def test_errors_say_what_to_do(no_default_backend: None, given: dict[str, Any], text: str) -> None:
    case = make_case(42)
    arguments = {"tokens": case.labels, "teacher_logprobs": np.zeros((4, 3))} | given
    with pytest.raises(ValueError, match=text):
        sampled_token_kd_loss(case.student, **arguments)

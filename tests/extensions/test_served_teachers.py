"""`read_prompt_logprobs`: what a server returns, as a stored teacher."""

from __future__ import annotations

import json
import types
from typing import Any

import numpy as np
import pytest

from mcld_core.extensions.nlp import TopKLogits, read_prompt_logprobs, token_kd_loss
from tests.cases import logits
from tests.tolerance import assert_value

VOCABULARY, K = 7, 3


def served(rows: np.ndarray, ids: list[int], form: str) -> list[Any]:
    """What a server says of a prompt: the k best at each place, and the prompt's own token."""
    answer: list[Any] = [None]
    for i, own in enumerate(ids[1:]):
        log_p = rows[i] - np.log(np.exp(rows[i]).sum())
        best = [own, *np.argsort(-log_p)[:K].tolist()]
        answer.append({int(c): {"logprob": float(log_p[c]), "rank": 1} for c in best})
    if form == "json":
        return json.loads(json.dumps(answer))
    if form == "python":
        return [e and {c: types.SimpleNamespace(**x) for c, x in e.items()} for e in answer]
    return [e and {c: x["logprob"] for c, x in e.items()} for e in answer]


@pytest.mark.parametrize("form", ["json", "python", "numbers"])
def test_the_loss_is_that_of_the_stored_logits(no_default_backend: None, form: str) -> None:
    rng = np.random.default_rng(90)
    student, teacher = (logits(rng, 2, 4, VOCABULARY) for _ in range(2))
    ids = rng.integers(0, VOCABULARY, (2, 4))
    lengths = [4, 3]
    prompts = [served(teacher[b], ids[b, :n].tolist(), form) for b, n in enumerate(lengths)]
    mask = np.arange(4)[None, :] < np.asarray(lengths)[:, None]
    found = read_prompt_logprobs(prompts, k=K)
    assert (found.values.dtype, found.indices.dtype) == ("float32", "int32")
    losses = [
        token_kd_loss(student, stored, ids, attention_mask=mask, shift=True)
        for stored in (found, TopKLogits.from_logits(teacher, K))
    ]
    assert losses[1] > 0.1
    assert_value(losses[0], losses[1], "float32", 10.0)


BAD: list[tuple[Any, type[Exception], str]] = [
    ([None, {"1": -0.5}], ValueError, "token 1 of prompt 0 needs at least k = 2 entries; got 1"),
    ([None, None], ValueError, "needs at least k = 2 entries; got None"),
    ([None, {"the": -0.5, "a": -1.0}], TypeError, "needs token id → log-probability"),
    ([None, {"1": {"rank": 1}, "2": {"rank": 2}}], TypeError, "needs token id → log-probability"),
    ([None, {"1": 0.5, "2": -1.0}], ValueError, "finite log-probabilities ≤ 0"),
    ([None, {"1": float("nan"), "2": -1.0}], ValueError, "finite log-probabilities ≤ 0"),
    ([None, {"-1": -0.5, "2": -1.0}], ValueError, "of ids ≥ 0"),
]


@pytest.mark.parametrize(("prompt", "error", "text"), BAD, ids=str)
def test_errors_name_the_place(prompt: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        read_prompt_logprobs([prompt], k=2)

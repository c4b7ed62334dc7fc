"""`read_prompt_logprobs`: what a server returns, as a stored teacher."""

from __future__ import annotations

import json
import types
from typing import Any

import numpy as np
import pytest

from mcld_core.extensions.nlp import (
    TopKLogits,
    read_prompt_logprobs,
    read_token_logprobs,
    read_top_logprobs,
    token_kd_loss,
)
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


def test_a_server_that_is_sure() -> None:
    """A float32 server's probabilities sum to 1 and more, and still others have some."""
    stored = read_prompt_logprobs([[None, {"2": 0.0, "5": -20.0}]], k=2)
    options: dict[str, Any] = {"shift": True, "divergence": "reverse"}
    assert 9.0 < token_kd_loss(np.zeros((1, 2, VOCABULARY)), stored, [[1, 2]], **options) < 20.0


BAD: list[tuple[Any, type[Exception], str]] = [
    ([None, {"1": -0.5}], ValueError, "token 1 of prompt 0 needs at least k = 2 entries; got 1"),
    ([None, None], ValueError, "needs at least k = 2 entries; got None"),
    (None, ValueError, "got None. Ask the server for prompt_logprobs=2"),
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


def spoken(rows: np.ndarray, ids: list[int], form: str) -> dict[str, Any]:
    """What an OpenAI-style server says of the tokens ``ids``, from the rows before them."""

    def named(token: int) -> str:
        return f"token_id:{token}" if form != "texts" else "abcdefg"[token]

    tokens = []
    for row, own in zip(rows, ids, strict=True):
        log_p = row - np.log(np.exp(row).sum())
        best = [own, *np.argsort(-log_p)[:K].tolist()]
        tokens.append({named(token): float(log_p[token]) for token in best})
    if form == "chat":
        entries = [
            [{"token": t, "logprob": p} for t, p in [*x.items(), (max(x, key=x.get), -50.0)]]
            for x in tokens  # each time another token, less probable, with the text of the best
        ]
        names = map(named, ids)
        return {
            "content": [
                {"token": t, "top_logprobs": x} for t, x in zip(names, entries, strict=True)
            ]
        }
    return {"tokens": [named(token) for token in ids], "top_logprobs": tokens}


@pytest.mark.parametrize("form", ["ids", "texts", "chat"])
def test_what_a_server_says_of_its_own_text(form: str) -> None:
    """The prompt has two tokens and one; the first of the answer is predicted by the last one."""
    teacher = np.random.default_rng(91).normal(size=(2, 5, VOCABULARY))
    answers = [spoken(teacher[0, 1:4], [1, 5, 2], form), spoken(teacher[1, 0:2], [3, 6], form)]
    stored = read_top_logprobs(
        json.loads(json.dumps(answers)),
        k=K,
        token_ids={text: i for i, text in enumerate("abcdefg")},
        prompt_lengths=[2, 1],
    )
    expected = TopKLogits.from_logits(teacher, K)
    assert stored.indices.shape == (2, 5, K)
    for row, places in enumerate((slice(1, 4), slice(0, 2))):
        np.testing.assert_array_equal(stored.indices[row, places], expected.indices[row, places])
        np.testing.assert_allclose(stored.tail[row, places], expected.tail[row, places], rtol=1e-5)
        found = stored.values[row, places]
        np.testing.assert_allclose(found, expected.values[row, places], rtol=1e-5)
    assert not stored.values[0, 0].any()


def test_an_echoed_prompt_is_as_prompt_logprobs() -> None:
    rows, ids = np.random.default_rng(92).normal(size=(4, VOCABULARY)), [4, 0, 3, 6]
    echoed = spoken(rows[:3], ids[1:], "ids")
    echoed["top_logprobs"].insert(0, None)
    found = read_top_logprobs([echoed], k=K)
    as_prompt = read_prompt_logprobs([served(rows, ids, "json")], k=K)
    for one, other in zip(found, as_prompt, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("form", ["json", "python", "numbers", "ids", "chat"])
def test_the_own_token(form: str) -> None:
    """Each stands at its token's place, as `sampled_token_kd_loss` takes it with shift=True."""
    rows, ids = np.random.default_rng(93).normal(size=(3, VOCABULARY)), [4, 0, 3, 6]
    expected = [0.0]
    for row, own in zip(rows, ids[1:], strict=True):
        expected.append(float(row[own] - np.log(np.exp(row).sum())))
    if form in ("json", "python", "numbers"):
        found = read_token_logprobs([served(rows, ids, form), []], prompts=[ids, []])
    else:
        answer = spoken(rows, ids[1:], form)
        answer["token_logprobs"] = expected[1:]
        for x, own in zip(answer.get("content", []), expected[1:], strict=form == "chat"):
            x["logprob"] = own
        answers = [answer, {"token_logprobs": [None]}]
        found = read_token_logprobs(json.loads(json.dumps(answers)), prompt_lengths=[1, 0])
    np.testing.assert_allclose(found, [expected, [0.0] * 4], rtol=1e-5)


@pytest.mark.parametrize(
    ("answer", "options", "text"),
    [
        ([None, {"1": -0.5}], {"prompts": [[0, 2]]}, "answer 0 needs a finite log-probability"),
        ([None, {"1": -0.5}], {"prompts": [[1]]}, "prompts need the ids of each token"),
        (None, {"prompts": [[1]]}, "prompts need the ids of each token"),
        (None, {}, "answer 0 needs a finite log-probability"),
        ({"content": [{"logprob": np.nan}]}, {"prompt_lengths": [1]}, "answer 0 needs a finite"),
        ({"token_logprobs": [None]}, {"prompt_lengths": [1]}, "answer 0 needs a finite"),
        (
            {"token_logprobs": [-0.5]},
            {},
            "token 0 of answer 0 needs no entries .*; got -0.5. Pass pr",
        ),
    ],
)
def test_errors_of_the_own_token(answer: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"read_token_logprobs: {text}"):
        read_token_logprobs([answer], **options)


@pytest.mark.parametrize(
    ("answer", "options", "error", "text"),
    [
        (None, {}, TypeError, r"'content' or .* got \[\]\. Ask the server for logprobs"),
        ({"content": [{"top_logprobs": None}]}, {"prompt_lengths": [1]}, ValueError, "k = 2 ent"),
        ({"tokens": []}, {}, TypeError, r"'content' or 'top_logprobs'.* got \['tokens'\]"),
        ({"top_logprobs": [{"token_id:1": -1.0}]}, {}, ValueError, "token 0 of .* no entries"),
        ({"top_logprobs": [None, {"a": -1.0}]}, {}, ValueError, "token 1 .* names; got 'a'"),
        ({"top_logprobs": [{"a": -1.0}]}, {"token_ids": {"a": 1}, "prompt_lengths": [1]},
         ValueError, r"needs at least k = 2 entries; got 1\. .*top_logprobs=2"),
        ({"top_logprobs": []}, {"prompt_lengths": [1, 1]}, ValueError, "number ≥ 0 for each of t"),
    ],
    ids=str,
)  # fmt: skip
def test_errors_of_top_logprobs(
    answer: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=f"read_top_logprobs: .*{text}"):
        read_top_logprobs([answer], k=2, **options)

"""Teachers behind a server: the log-probabilities that it returns, as a stored teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mcld_core.arguments import Checks
from mcld_core.extensions.nlp.stored import TopKLogits, with_rest
from mcld_core.typing import Array, Float


def read_prompt_logprobs(
    prompts: Sequence[Sequence[Mapping[Any, Any] | None]], k: int
) -> TopKLogits:
    """Read the ``prompt_logprobs`` of vLLM, from its server's JSON or from Python, in NumPy.

    For each token of a prompt they tell the most probable tokens in its place, given those before
    it: what a student's logits of the token before predict. That is where it is put, for
    ``shift=True``. The first token has none (None). A server adds the prompt's own token where it
    is not among the k: only the k most probable are kept, and the mass of all others is the tail.

    The server of vLLM has them at ``choices[i].prompt_logprobs`` of a completion and at
    ``prompt_logprobs`` of a chat completion. For the text that a server wrote itself, and for other
    servers, there is `read_top_logprobs`.

    Args:
        prompts: for each prompt its list, one entry a token: None, or token id (int, or as text
            in JSON) → log-probability, as a number or with a ``logprob``, as key or attribute.
        k: how many entries to keep; the server was asked for at least so many.

    Returns:
        `TopKLogits` of (prompts, tokens of the longest, k), values float32, indices int32. The
        last token of a prompt and the padding after it hold zeros: the attention mask and the
        shift leave them out.

    Raises:
        ValueError, TypeError: fewer than k entries; a token after the first without any; an
            entry that is not finite or above 0; an id that is not an int ≥ 0.

    Example:
        >>> answer = [None, {"5": {"logprob": -0.5, "rank": 1}, "2": {"logprob": -1.5, "rank": 2}}]
        >>> stored = read_prompt_logprobs([answer], k=1)
        >>> stored.indices[0].tolist(), round(float(stored.tail[0, 0]), 3)
        ([[5], [0]], -0.933)
    """
    given = [[None, None] if prompt is None else prompt for prompt in prompts]  # not asked for
    spoken = [[None, *prompt[1:]][: len(prompt)] for prompt in given]
    return _read(Checks("read_prompt_logprobs"), "prompt", [0] * len(spoken), spoken, k)


def read_top_logprobs(
    choices: Sequence[Mapping[str, Any]],
    k: int,
    *,
    token_ids: Mapping[str, int] | None = None,
    prompt_lengths: Sequence[int] | None = None,
) -> TopKLogits:
    """Read the ``logprobs`` of OpenAI-style servers (vLLM, SGLang, llama.cpp), from JSON, in NumPy.

    Both forms are read, as they stand at ``choices[i].logprobs``: of completions, ``{"tokens":
    …, "top_logprobs": [{token: log-probability}, …]}``, and of chat completions, ``{"content":
    [{"token": …, "top_logprobs": [{"token": …, "logprob": …}, …]}, …]}``. What they say of a
    token is put at the place before it, as by `read_prompt_logprobs`: for ``shift=True``.

    These servers name tokens by their text, and different tokens may have the same text, such as
    parts of a character: the most probable of them is kept, the mass of the others is in the tail
    (so ask for more than k). vLLM names them by their ids where the request has
    ``return_tokens_as_token_ids=true``; with ``echo=true`` it speaks of the prompt too.

    Args:
        choices: for each sequence its ``logprobs``, as dicts.
        k: how many entries to keep; the server was asked for at least so many.
        token_ids: text → id, for servers that return texts: ``{tokenizer.decode([i]): i for i in
            range(size)}``. Not needed where the texts are ``"token_id:<id>"``.
        prompt_lengths: for each sequence how many tokens stand before the first one that its
            ``logprobs`` speak of. None: none, the prompt was echoed. Rows of the prompt hold
            zeros: label its tokens by -100.

    Returns:
        As of `read_prompt_logprobs`, of the longest sequence with its prompt.

    Raises:
        ValueError, TypeError: as of `read_prompt_logprobs`; a text that has no id; a first token
            without a prompt that has entries.

    Example:
        >>> entries = [None, {"token_id:5": -0.5, "token_id:2": -1.5}]
        >>> answer = {"tokens": ["token_id:7", "token_id:5"], "top_logprobs": entries}
        >>> read_top_logprobs([answer], k=1).indices[0].tolist()
        [[5], [0]]
    """
    checks = Checks("read_top_logprobs")
    starts = _starts(checks, prompt_lengths, len(choices))
    spoken = [
        [
            # the most probable comes last, and so stays where two have one text
            {_id(checks, f"token {i} of sequence {b}", x, token_ids): p for p, x in sorted(entries)}
            for i, entries in enumerate(_by_token(checks, answer))
        ]
        for b, answer in enumerate(choices)
    ]
    return _read(checks, "sequence", starts, spoken, k)


def read_token_logprobs(
    answers: Sequence[Any],
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    prompt_lengths: Sequence[int] | None = None,
) -> Float[Array, "batch tokens"]:
    """Read the log-probability of each token that stands in the text, for `sampled_token_kd_loss`.

    Servers send it whatever the k they were asked for: ``prompt_logprobs=0`` is enough.

    Args:
        answers: as of `read_prompt_logprobs` with ``prompts``, else as of `read_top_logprobs`,
            whose ``token_logprobs`` or ``content`` are read.
        prompts: the ids of each prompt of `read_prompt_logprobs`.
        prompt_lengths: as of `read_top_logprobs`.

    Returns:
        (sequences, tokens of the longest) float32, at each token's own place; 0 where nothing was
        said: of the first token and of the padding.

    Raises:
        ValueError, TypeError: a token of a prompt that is not in its entry; as of
            `read_top_logprobs`.

    Example:
        >>> read_token_logprobs([{"token_logprobs": [-0.5, -2.0]}], prompt_lengths=[1])
        array([[ 0. , -0.5, -2. ]], dtype=float32)
    """
    checks = Checks("read_token_logprobs")
    starts = _starts(checks, prompt_lengths, len(answers))
    found: list[Any] = []
    for b, answer in enumerate(answers):
        if prompts is not None:
            if len(prompts) != len(answers) or len(prompts[b]) != len(answer or ()):
                came = f"{len(prompts)} prompts for {len(answers)} answers"
                raise checks.wrong("prompts need the ids of each token of each answer", came)
            said: Any = [entries or {} for entries in answer or ()]
            own: Any = [x.get(i, x.get(str(i))) for x, i in zip(said, prompts[b], strict=True)]
        else:
            said = answer if isinstance(answer, Mapping) else {}
            forms = said.get("content"), said.get("token_logprobs"), [None, None]
            own = next(x for x in forms if x is not None)
            if not starts[b] and own and own[0] is not None:
                raise _unplaced(checks, f"token 0 of answer {b}", own[0])
        # nothing stands before the first
        own = [_logprob(x) if starts[b] + i else 0.0 for i, x in enumerate(own)]
        if not all(-np.inf < x <= 1e-3 for x in own):
            needs = f"answer {b} needs a finite log-probability ≤ 0 of each of its tokens"
            cure = "Ask the server for logprobs, and pass prompts in the order of the answers"
            raise checks.wrong(needs, own, cure)
        found.append([0.0] * starts[b] + own)
    values = np.zeros((len(found), max(map(len, found), default=0)), "float32")
    for row, own in zip(values, found, strict=True):
        row[: len(own)] = own
    return values


def _starts(checks: Checks, prompt_lengths: Sequence[int] | None, count: int) -> list[int]:
    starts = [0] * count if prompt_lengths is None else [int(n) for n in prompt_lengths]
    if len(starts) != count or min(starts, default=0) < 0:
        needs = f"prompt_lengths need a number ≥ 0 for each of the {count} sequences"
        raise checks.wrong(needs, starts)
    return starts


def _read(
    checks: Checks, sequence: str, starts: Sequence[int], spoken: Sequence[Sequence[Any]], k: int
) -> TopKLogits:
    """Return what is spoken of each token of each sequence, at the place before the token."""
    checks.integer("k", k, minimum=1)
    longest = max((n + len(tokens) for n, tokens in zip(starts, spoken, strict=True)), default=0)
    values = np.zeros((len(spoken), longest, k), "float32")
    indices = np.zeros(values.shape, "int32")
    for b, (start, tokens) in enumerate(zip(starts, spoken, strict=True)):
        for i, entries in enumerate(tokens, start - 1):
            place = f"token {i - start + 1} of {sequence} {b}"
            if i >= 0:
                indices[b, i], values[b, i] = _entries(checks, entries, k, place)
            elif entries:
                raise _unplaced(checks, place, len(entries))
    return with_rest(values, indices)


def _unplaced(checks: Checks, place: str, came: Any) -> ValueError:
    needs = f"{place} needs no entries where nothing stands before it"
    return checks.wrong(needs, came, "Pass prompt_lengths, or ask for echo=true")


def _by_token(checks: Checks, answer: Mapping[str, Any] | None) -> list[list[tuple[float, str]]]:
    """Return for each token log-probabilities and their texts, of both forms."""
    answer = answer or {}
    if answer.get("content") is not None:
        content = [token.get("top_logprobs") or () for token in answer["content"]]
        return [[(x["logprob"], x["token"]) for x in entries] for entries in content]
    if answer.get("top_logprobs") is None:
        needs = "choices need 'content' or 'top_logprobs', as at choices[i].logprobs of an answer"
        raise checks.wrong_type(needs, sorted(answer), "Ask the server for logprobs")
    return [[(p, x) for x, p in (entries or {}).items()] for entries in answer["top_logprobs"]]


def _id(checks: Checks, place: str, token: str, token_ids: Mapping[str, int] | None) -> int:
    name, _, number = token.partition(":")
    if name == "token_id" and number.isdecimal():
        return int(number)
    if token_ids is None or token not in token_ids:
        needs = f"{place} needs tokens that token_ids names"
        cure = "Ask vLLM for return_tokens_as_token_ids=true, or pass token_ids={text: id}"
        raise checks.wrong(needs, repr(token), cure)
    return token_ids[token]


def _entries(checks: Checks, entries: Any, k: int, place: str) -> tuple[Any, Any]:
    """Return the ids and log-probabilities of the k most probable, in their order."""
    if not isinstance(entries, Mapping) or len(entries) < k:
        came = len(entries) if isinstance(entries, Mapping) else repr(entries)
        name = checks.function.removeprefix("read_")
        cure = f"Ask the server for {name}={k}, or for more where tokens have one text"
        raise checks.wrong(f"{place} needs at least k = {k} entries", came, cure)
    try:
        found = sorted(((_logprob(x), int(token)) for token, x in entries.items()), reverse=True)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        needs = f"{place} needs token id → log-probability"
        raise checks.wrong_type(needs, repr(entries)) from error
    logprobs, ids = zip(*found[:k], strict=True)
    if not all(-np.inf < x <= 1e-3 for x in logprobs) or min(ids) < 0:
        needs = f"{place} needs finite log-probabilities ≤ 0 of ids ≥ 0"
        raise checks.wrong(needs, repr(entries))
    return ids, logprobs


def _logprob(entry: Any) -> float:
    if isinstance(entry, Mapping):
        return float(entry["logprob"])
    return float(entry if isinstance(entry, (int, float)) else getattr(entry, "logprob", np.nan))

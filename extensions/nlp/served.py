"""Teachers behind a server: the log-probabilities that it returns, as a stored teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mcld_core.arguments import Checks
from mcld_core.extensions.nlp.stored import TopKLogits


def read_prompt_logprobs(
    prompts: Sequence[Sequence[Mapping[Any, Any] | None]], k: int
) -> TopKLogits:
    """Read the ``prompt_logprobs`` of vLLM, from its server's JSON or from Python, in NumPy.

    For each token of a prompt they tell the most probable tokens in its place, given those before
    it. So what stands at token i + 1 is what a student's logits of token i predict: that is where
    it is put here, as for ``shift=True`` in `token_mcld_loss` and `token_kd_loss`. The first
    token has none (None). A server adds the prompt's own token where it is not among the k:
    only the k most probable are kept, and the mass of all others is the tail.

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
        ([[5], [0]], 0.393)
    """
    checks = Checks("read_prompt_logprobs")
    checks.integer("k", k, minimum=1)
    shape = (len(prompts), max((len(prompt) for prompt in prompts), default=0))
    values, indices = np.zeros((*shape, k), "float32"), np.zeros((*shape, k), "int32")
    tail = np.zeros(shape, "float32")
    for b, prompt in enumerate(prompts):
        for i, entries in enumerate(prompt[1:]):
            place = f"token {i + 1} of prompt {b}"
            ids, logprobs = _entries(entries, k, place)
            values[b, i], indices[b, i] = logprobs, ids
            tail[b, i] = max(0.0, 1.0 - float(np.exp(logprobs).sum()))
    return TopKLogits(values, indices, tail)


def _entries(entries: Any, k: int, place: str) -> tuple[list[int], np.ndarray[Any, Any]]:
    """Return the ids and log-probabilities of the k most probable, in their order."""
    function = "read_prompt_logprobs"
    if not isinstance(entries, Mapping) or len(entries) < k:
        came = len(entries) if isinstance(entries, Mapping) else repr(entries)
        raise ValueError(
            f"{function}: {place} needs at least k = {k} entries; got {came}. Ask the server for "
            f"prompt_logprobs={k}"
        )
    try:
        found = sorted(((_logprob(x), int(token)) for token, x in entries.items()), reverse=True)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise TypeError(
            f"{function}: {place} needs token id → log-probability; got {entries!r}"
        ) from error
    logprobs, ids = np.asarray([x for x, _ in found[:k]]), [token for _, token in found[:k]]
    if not (np.isfinite(logprobs) & (logprobs <= 1e-3)).all() or min(ids) < 0:
        raise ValueError(
            f"{function}: {place} needs finite log-probabilities ≤ 0 of ids ≥ 0; got {entries!r}"
        )
    return ids, logprobs


def _logprob(entry: Any) -> float:
    if isinstance(entry, Mapping):
        return float(entry["logprob"])
    return float(entry if isinstance(entry, (int, float)) else entry.logprob)

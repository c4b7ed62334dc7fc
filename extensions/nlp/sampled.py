"""Reverse distillation from tokens that the student drew: the teacher scores them alone."""

from __future__ import annotations

from mcld_core.backends.protocol import KeptRows
from mcld_core.extensions._sequences import SequenceArguments, flat, following
from mcld_core.extensions.nlp.tokens import (
    TokenLoss,
    check_token_logits,
    reduced_loss,
    token_rows,
)
from mcld_core.typing import Array, Bool, Float, Int, Reduction, Scalar, Tensor


def sampled_token_kd_loss(
    student_logits: Float[Tensor, "batch tokens vocab"],
    tokens: Int[Array, "batch tokens"],
    teacher_logprobs: Float[Array, "batch tokens"],
    *,
    old_logprobs: Float[Array, "batch tokens"] | None = None,
    attention_mask: Bool[Array, "batch tokens"] | Int[Array, "batch tokens"] | None = None,
    shift: bool = False,
    ignore_index: int = -100,
    sample_weight: Float[Array, "batch tokens"] | None = None,
    reduction: Reduction = "mean",
    normalizer: Scalar | None = None,
) -> Tensor:
    """Distil on-policy from the teacher's log-probability of each token that the student drew.

    For each token y that counts ``stop_gradient(w (log q_y - log p_y)) · log q_y``, with
    ``w = q_y / q_old,y`` where the draws are of an older student, else 1. Over many draws of the
    student at temperature 1, without top-p or top-k, the mean of its gradient is that of
    ``KL(q ‖ p)`` of the next token given the prefix (not of whole sequences). Its value is no
    divergence; the mean of ``log q_y - log p_y`` estimates that. (``log q - log p`` itself,
    differentiated, has a gradient of mean 0.)

    Args:
        student_logits: (batch, tokens, vocab), any float dtype.
        tokens: (batch, tokens) int, what was drawn; ``ignore_index`` where a token does not count,
            such as the prompt's.
        teacher_logprobs: (batch, tokens), the teacher's log-probability of each of ``tokens``, as a
            server gives it; finite where the token counts.
        old_logprobs: (batch, tokens), the log-probability that the student had when it drew.
        attention_mask: (batch, tokens), True or 1 = keep.
        shift: the logits of token i are of ``tokens[i + 1]``, as in causal models; the
            log-probabilities stand where their tokens do.
        ignore_index, sample_weight, reduction, normalizer: as in `token_kd_loss`; so are the one
            backward pass, result and errors.

    Example:
        >>> import numpy as np
        >>> logits, drawn = np.zeros((1, 1, 2)), np.array([[1]])
        >>> round(float(sampled_token_kd_loss(logits, drawn, np.log([[0.25]]))), 4)
        -0.4805
    """
    arguments = SequenceArguments(
        *("sampled_token_kd_loss", student_logits, tokens, teacher_logprobs, old_logprobs),
        *(attention_mask, sample_weight),
    )
    ops = arguments.ops
    student = arguments.array("student_logits", student_logits, arguments.like)
    check_token_logits(arguments, "student_logits", student)
    tokens = arguments.array("tokens", tokens, student)
    of_tokens = tokens, attention_mask, sample_weight, shift, ignore_index
    drawn = token_rows(arguments, student, *of_tokens, student.shape[2])
    scores = []
    for name, given in (("teacher_logprobs", teacher_logprobs), ("old_logprobs", old_logprobs)):
        if given is None and name == "old_logprobs":
            continue
        found = arguments.shaped(name, given, student, student.shape[:2], "one a token")
        found = flat(ops, ops.stop_gradient(found))
        found = following(ops, student, found, None)[0] if shift else found
        arguments.finite(name, found, drawn.kept)
        scores.append(ops.astype(found, drawn.dtype)[None, :])
    loss = TokenLoss(ops, drawn.dtype, "sampled", has_labels=True)
    beside = ops.matrix_transpose(ops.concat(scores)), drawn.labels
    rows = KeptRows(flat(ops, student), beside)
    return reduced_loss(arguments, drawn, loss, rows, (), reduction, normalizer)

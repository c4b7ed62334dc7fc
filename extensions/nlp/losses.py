"""`token_mcld_loss`: the three contrasts on the logits of language models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mcld_core import MCLDConfig
from mcld_core.arguments import fits, is_plain
from mcld_core.backends import Backend
from mcld_core.extensions._sequences import (
    SequenceArguments,
    contrast_sequences,
    following,
    reduce_terms,
)
from mcld_core.extensions.nlp.tokens import check_token_logits
from mcld_core.typing import Array, Bool, Float, Int, Num, Reduction, Scalar


def token_mcld_loss(
    student_logits: Float[Array, "batch tokens vocab"],
    teacher_logits: Float[Array, "batch tokens vocab"],
    labels: Num[Array, "batch tokens"] | None = None,
    *,
    attention_mask: Bool[Array, "batch tokens"] | Int[Array, "batch tokens"] | None = None,
    sequence_labels: Int[Array, " batch"] | None = None,
    category: str = "token",
    token_contrast: Scalar | None = 0.0,
    sequence_contrast: Scalar = 0.0,
    shift: bool = False,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    class_prior: Float[Array, " vocab"] | None = None,
    progress: Scalar = 1.0,
    reduction: Reduction = "mean",
    normalizer: Scalar | None = None,
    return_terms: bool = False,
) -> Any:
    """Contrast token logits with a teacher's: by sequence, token and category.

    For labelled sequences (tags of tokens, topics of texts). A language model is better distilled
    by `token_kd_loss`, which needs no contrast of tokens. For valid tokens i of sequences b, a
    reconstruction that carries the three contrasts over:

    ``L = w_ins · σ · mean_b InfoNCE(s̄_b; p̄) + w_sam · mean_i [ L_sam,i + γ InfoNCE(s_i; p_j of the
    same sequence) ] + ramp · w_cat · mean_i L_cat,i + w_ce · mean_i L_ce,i``

    - instance-wise: ``s̄_b`` is the mean of a sequence's student logits, ``p̄_b`` of its teacher
      probabilities; sequences of the same ``sequence_labels`` do not push;
    - sample-wise: the decoupled divergence of each token, and the contrast of each token with the
      other tokens of its sequence, those of the same label left out;
    - category-wise: each token against all valid tokens of the batch, those of its label being
      the positives; with ``category="sequence"`` each sequence against all sequences.

    The means are over what is valid in the batch, so padding changes nothing. For the
    classification of whole texts `mcld_core.mcld_loss` itself is the loss. Memory grows with
    tokens · vocabulary and with one block of anchors · tokens; ``token_contrast``, which says token
    by token what lies in the same sequence, takes tokens² bytes.

    Args:
        student_logits: (batch, tokens, vocab), any float dtype.
        teacher_logits: the same shape; never receives a gradient. A teacher stored as `TopKLogits`
            is for `token_kd_loss`.
        labels: (batch, tokens) int, -100 where a token does not count, or (batch, tokens, vocab)
            soft; None: the teacher's arg max.
        attention_mask: (batch, tokens), True or 1 = keep; None keeps all.
        sequence_labels: (batch,) int ids, such as a topic; negative: shared with no other, and
            without a positive in ``category="sequence"``. Ids beyond 32 bits need 64-bit integers:
            in JAX ``jax_enable_x64``.
        category: ``"token"`` or ``"sequence"`` (not with ``category_contrast="prototypes"``).
        token_contrast: γ; None: 1/T², which offsets the factor T² of the divergence beside it. 0 by
            default: it took a tenth of a training step and raised the perplexity a little.
        sequence_contrast: σ, the part of ``config.weight_instance`` that the contrast between whole
            sequences has. 0 by default: it raised the perplexity.
        shift: ``labels`` are the inputs themselves: the label of token i is ``labels[i + 1]``, as
            in the causal models of transformers. Otherwise labels are already aligned.
        config: weights and settings; a weight of 0 switches its term off.
        class_prior: (vocab,) ≥ 0, how often each token stands among the keys.
        progress: both as in `mcld_core.mcld_loss`.
        reduction: with n tokens that count, and each term that is one value of the batch counted
            once a token: ``"sum"``, ``"mean"`` (the sum over ``normalizer``, else over n) or
            ``"none"``: (batch, tokens).
        normalizer: as in `token_kd_loss`; each contrast stays within its micro-batch.
        return_terms: also return the parts.

    Returns:
        The loss, float32 (float64 for float64 logits). With ``return_terms`` a pair of it and a
        dict: ``"instance"``, ``"sample"`` (the divergence), ``"token"`` (the contrast within the
        sequence), ``"category"`` (``"ce"`` when used), each without weight but with the same
        reduction, and ``"ramp"``.

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> logits = np.log(np.full((1, 2, 2), 0.5))
        >>> round(float(token_mcld_loss(logits, logits, np.array([[0, 1]]))), 4)
        0.6931

    References:
        Q. Wang, J. Zhou, arXiv:2411.10693, 2024 (the three contrasts, on images).
    """
    arrays = (student_logits, teacher_logits, labels, attention_mask, sequence_labels)
    arguments = SequenceArguments("token_mcld_loss", *arrays)
    ops = arguments.ops
    if hasattr(teacher_logits, "_fields"):
        needs = "teacher_logits needs all logits, (batch, tokens, vocab)"
        cure = "A teacher of the top k is for token_kd_loss"
        raise arguments.wrong_type(needs, type(teacher_logits).__name__, cure)
    arguments.settings(config, MCLDConfig)
    arguments.choice("category", category, ("token", "sequence"))
    by_sequence = category == "sequence"
    if by_sequence and sequence_labels is None:
        raise arguments.wrong("category='sequence' needs sequence_labels, (batch,) int", "None")
    if by_sequence and config.category_contrast == "prototypes":
        raise ValueError(
            "token_mcld_loss: category='sequence' has no prototypes, which are one a token of the "
            "vocabulary; use category='token' or category_contrast='labels'"
        )
    if token_contrast is not None:
        arguments.number("token_contrast", token_contrast, minimum=0.0)
    arguments.number("sequence_contrast", sequence_contrast, minimum=0.0)
    arguments.flag("shift", shift)
    arguments.flag("return_terms", return_terms)
    arguments.reduction(reduction)
    student, teacher = arguments.tensors(student_logits, teacher_logits)
    for name, x in (("student_logits", student), ("teacher_logits", teacher)):
        check_token_logits(arguments, name, x)
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    if not fits(ours, theirs):
        needs = "student_logits and teacher_logits need the same shape"
        cure = "Map another vocabulary first: mcld_core.extensions.nlp.align_vocabulary"
        raise arguments.wrong(needs, f"{ours} and {theirs}", cure)
    if labels is not None:
        labels = arguments.flat_labels("labels", labels, student)
    kept = arguments.flat_mask("attention_mask", attention_mask, student)
    if shift:
        labels, kept = following(ops, student, labels, kept)
    rows = arguments.rows(student, teacher, labels, kept, config)
    if sequence_labels is not None:
        sequence_labels = arguments.ids("sequence_labels", sequence_labels, student)
    weight = 0.0 if is_plain(sequence_contrast, 0) else config.weight_instance * sequence_contrast
    found = contrast_sequences(
        ops, rows, student, own_labels(ops, sequence_labels, student), token_contrast, by_sequence,
        config=replace(config, weight_instance=weight),
        class_prior=class_prior, progress=progress,
    )  # fmt: skip
    return reduce_terms(arguments, rows, student, found, reduction, normalizer, return_terms)


def own_labels(
    ops: Backend, labels: Int[Array, " batch"] | None, student: Array
) -> tuple[Int[Array, " batch"], Int[Array, " batch"]]:
    """Return the labels of sequences, ids of any kind, and the same as keys.

    Ids become the place of the last sequence that has them; a negative one is shared with no other
    and has no positive, so that as a key it has a label that no anchor has. None: each its own.
    """
    count = ops.size(student, 0)
    place = ops.arange(count, student)
    if labels is None or (isinstance(count, int) and not count):
        return place, place
    same = (labels[:, None] == labels[None, :]) & (labels >= 0)[None, :]
    last = ops.max(ops.where(same, place[None, :], -1), 1)
    named = last >= 0
    return ops.where(named, last, count), ops.where(named, last, place)

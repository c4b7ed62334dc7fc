"""Plain distillation of language models: divergences of tokens, from all logits or the top k."""

from __future__ import annotations

from typing import Any

from mcld_core.baselines.evaluation import reduced
from mcld_core.baselines.kd import DIVERGENCES, check_divergence
from mcld_core.extensions._sequences import SequenceArguments, reduce_sequences
from mcld_core.extensions._stored import TopKLogits, arrays_of, token_rows
from mcld_core.typing import Array, Bool, Float, Int, Reduction, Scalar, Tensor


def token_kd_loss(
    student_logits: list[Any] | Float[Tensor, "batch tokens vocab"],
    teacher_logits: Float[Array, "batch tokens vocab"] | TopKLogits,
    labels: Int[Array, "batch tokens"] | None = None,
    *,
    attention_mask: Bool[Array, "batch tokens"] | Int[Array, "batch tokens"] | None = None,
    shift: bool = False,
    temperature: Scalar = 1.0,
    divergence: str = "forward",
    mix: Scalar = 0.5,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    normalizer: Scalar | None = None,
) -> Tensor:
    """Distil a language model token by token: `mcld_core.kd_loss` of the tokens that count.

    With p the teacher's and q the student's softmax of z/T, ``divergence`` is ``"forward"``
    (``T² KL(p ‖ q)``), ``"reverse"`` (``T² KL(q ‖ p)``) or ``"jsd"`` (``T² [ μ KL(p ‖ m) +
    (1 - μ) KL(q ‖ m) ]``, ``m = μ p + (1 - μ) q``). A teacher stored as `TopKLogits` is never made
    dense; without a tail its reverse divergence is +inf. No cross-entropy is hidden inside.

    Args:
        student_logits: (batch, tokens, vocab), any float dtype.
        teacher_logits: the same shape, or `TopKLogits`; never receives a gradient.
        labels: (batch, tokens) int; a token whose label is ``ignore_index`` does not count. They
            play no other part. None: all count.
        attention_mask: (batch, tokens), True or 1 = keep; None keeps all.
        shift: ``labels`` are the inputs themselves, as in the causal models of transformers: a
            token counts where the one after it does too.
        temperature: T > 0.
        divergence: ``"forward"``, ``"reverse"`` or ``"jsd"``.
        mix: μ of ``"jsd"``, in (0, 1).
        ignore_index: the label of a token that does not count.
        reduction, normalizer: as in `token_mcld_loss`; so are result and errors.

    Example:
        >>> import numpy as np
        >>> teacher = np.log([[[0.5, 0.25, 0.25]]])
        >>> stored = TopKLogits.from_logits(teacher, k=1)
        >>> student = np.zeros((1, 1, 3))
        >>> [round(float(token_kd_loss(student, t)), 4) for t in (teacher, stored)]
        [0.0589, 0.0589]

    References:
        G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015. R.
        Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024 (the generalised
        JSD).
    """
    arguments = SequenceArguments(
        "token_kd_loss", student_logits, *arrays_of(teacher_logits), labels, attention_mask
    )
    check_divergence(arguments, temperature, divergence, mix)
    arguments.flag("shift", shift)
    arguments.integer("ignore_index", ignore_index)
    arguments.reduction(reduction)
    given = (student_logits, teacher_logits, labels, attention_mask, None)
    sequences = token_rows(arguments, given, shift, ignore_index)

    def values(student: Array, teacher: Any, _: Array, t: Scalar, mu: Scalar) -> Array:
        return DIVERGENCES[divergence](arguments.ops, student, teacher, t, mu)

    found = reduced(arguments, sequences.rows, values, (temperature, mix), "none")
    return reduce_sequences(arguments, sequences, found, reduction, normalizer)

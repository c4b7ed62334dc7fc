"""Distillation from hidden states and the last layer: logits exist by block alone."""

from __future__ import annotations

from typing import Any

from mcld_core.arguments import as_number
from mcld_core.baselines.kd import DIVERGENCES, check_divergence
from mcld_core.extensions._sequences import SequenceArguments, reduce_sequences
from mcld_core.extensions._stored import TopKLogits
from mcld_core.extensions.nlp.layers import arrays_of_teacher, layer_rows, of_logits
from mcld_core.typing import Array, Bool, Float, Int, Reduction, Scalar


def linear_token_kd_loss(
    hidden: Float[Array, "batch tokens width"],
    weight: Float[Array, "vocab width"],
    teacher: TopKLogits | tuple[Any, ...],
    labels: Int[Array, "batch tokens"] | None = None,
    *,
    bias: Float[Array, " vocab"] | None = None,
    attention_mask: Bool[Array, "batch tokens"] | Int[Array, "batch tokens"] | None = None,
    shift: bool = False,
    temperature: Scalar = 1.0,
    divergence: str = "forward",
    mix: Scalar = 0.5,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    normalizer: Scalar | None = None,
) -> Any:
    """Return `token_kd_loss` of ``hidden @ weightᵀ + bias`` without ever holding these logits.

    For long texts and large vocabularies: logits exist for a block of tokens at a time. PyTorch
    forms them once where the reduction is "mean" or "sum"; otherwise, and in JAX, they are formed
    again in the backward pass. Beyond the arguments and their gradients the memory is that of one
    block and one more array of the size of ``weight``. TensorFlow still holds all logits.

    Args:
        hidden: (batch, tokens, width), what the last layer of the student takes. The product is
            formed in its dtype: under mixed precision give it in half precision.
        weight: (vocab, width), that layer's weight, as a linear layer of torch has it.
        teacher: `TopKLogits`, or the teacher's own ``(hidden, weight)`` or ``(hidden, weight,
            bias)``, of any width; never receives a gradient.
        labels: (batch, tokens) int, as in `token_kd_loss`.
        bias: (vocab,), the layer's bias.
        attention_mask, shift, temperature, divergence, mix, ignore_index, reduction, normalizer:
            as in `token_kd_loss`; so are result and errors. ``hidden``, ``weight`` and ``bias``
            receive a gradient.

    Example:
        >>> import numpy as np
        >>> hidden, weight = np.ones((1, 2, 3)), np.eye(3)
        >>> round(float(linear_token_kd_loss(hidden, weight, (hidden, 2 * weight))), 4)
        0.0
    """
    arguments = SequenceArguments(
        "linear_token_kd_loss",
        *(hidden, weight, bias, labels, attention_mask),
        *arrays_of_teacher("linear_token_kd_loss", teacher),
    )
    check_divergence(arguments, temperature, divergence, mix)
    arguments.flag("shift", shift)
    arguments.integer("ignore_index", ignore_index)
    arguments.reduction(reduction)
    layer, beside = (hidden, weight, bias), (labels, attention_mask, None)
    rows = layer_rows(arguments, layer, teacher, beside, shift, ignore_index)
    ops, batch = arguments.ops, rows.sequences.rows
    t, mu = (as_number(ops, number, batch.student, batch.dtype) for number in (temperature, mix))

    def values(student: Array, theirs: Any, _: Array) -> tuple[Array]:
        return (DIVERGENCES[divergence](ops, student, theirs, t, mu),)

    block_rows = rows.block_rows(ops, "auto", (t, mu))
    (found,) = of_logits(ops, rows, values, reduction, block_rows)
    return reduce_sequences(arguments, rows.sequences, found, reduction, normalizer)

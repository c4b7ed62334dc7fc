"""`token_kd_loss` from hidden states and the last layer: logits exist by block alone."""

from __future__ import annotations

from typing import Any

from mcld_core.backends.protocol import KeptRows
from mcld_core.extensions._sequences import SequenceArguments, flat
from mcld_core.extensions.nlp.kd import distil
from mcld_core.extensions.nlp.layers import LastLayer, checked_layer
from mcld_core.extensions.nlp.stored import TopKLogits, arrays_of
from mcld_core.extensions.nlp.tokens import Head
from mcld_core.typing import Array, Bool, Float, Int, Reduction, Scalar


def linear_token_kd_loss(
    hidden: Float[Array, "batch tokens width"],
    weight: Float[Array, "vocab width"],
    teacher: Float[Array, "batch tokens vocab"] | TopKLogits | LastLayer | tuple[Any, ...],
    labels: Int[Array, "batch tokens"] | None = None,
    *,
    bias: Float[Array, " vocab"] | None = None,
    softcap: float | None = None,
    scale: Scalar = 1.0,
    divergence: str = "forward",
    mix: Scalar = 0.5,
    temperature: Scalar = 1.0,
    ce_weight: Scalar = 0.0,
    attention_mask: Bool[Array, "batch tokens"] | Int[Array, "batch tokens"] | None = None,
    shift: bool = False,
    ignore_index: int = -100,
    sample_weight: Float[Array, "batch tokens"] | None = None,
    reduction: Reduction = "mean",
    normalizer: Scalar | None = None,
) -> Any:
    """Return `token_kd_loss` of ``softcap · tanh(scale (hidden @ weightᵀ + bias) / softcap)``.

    These logits are never held as a whole: they exist for a block of tokens at a time, and are
    formed once. Beyond the arguments and their gradients the memory is that of one block. With
    ``reduction="none"``, and in a graph that PyTorch compiles, all logits are held.

    Args:
        hidden: (batch, tokens, width), what the last layer of the student takes. The product is
            formed in its dtype: under mixed precision give it in half precision.
        weight: (vocab, width), that layer's weight, as a linear layer of torch has it; tied to the
            embeddings or not. Frozen, it costs no gradient. With an adapter on it (LoRA) the
            merged one. A DTensor on a mesh of one axis (FSDP2) is gathered, and its gradient is the
            ranks' mean, as FSDP's.
        teacher: logits, `TopKLogits`, or the teacher's own `LastLayer` (also as a tuple ``(hidden,
            weight)`` or ``(hidden, weight, bias)``), of any width.
        labels: (batch, tokens) int, as in `token_kd_loss`.
        bias: (vocab,), the layer's bias.
        softcap: as in Gemma 2; None: none.
        scale: of the logits, as in Cohere; 1/``logits_scaling`` of Granite.
        divergence, mix, temperature, ce_weight: as in `token_kd_loss`.
        attention_mask, shift, ignore_index, sample_weight: as there.
        reduction, normalizer: as there; so are result and errors. ``hidden``, ``weight`` and
            ``bias`` receive a gradient.

    Example:
        >>> import numpy as np
        >>> hidden, weight = np.ones((1, 2, 3)), np.eye(3)
        >>> round(float(linear_token_kd_loss(hidden, weight, (hidden, 2 * weight))), 4)
        0.0
    """
    arguments = SequenceArguments(
        *("linear_token_kd_loss", hidden, weight, bias, labels, attention_mask, sample_weight),
        *arrays_of(teacher),
    )
    layer = checked_layer(arguments, "", LastLayer(hidden, weight, bias, softcap, scale))
    parameters = tuple(x for x in (layer.weight, layer.bias) if x is not None)
    rows = KeptRows(flat(arguments.ops, layer.hidden), (), layer=parameters)
    given, head = (layer.hidden, teacher), Head(scale, softcap)
    of_tokens = labels, attention_mask, sample_weight, shift, ignore_index
    settings = divergence, mix, temperature, ce_weight
    return distil(arguments, rows, given, of_tokens, settings, head, reduction, normalizer)

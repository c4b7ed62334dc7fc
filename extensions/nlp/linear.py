"""Losses of language models from hidden states and the last layer: logits exist by block alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mcld_core.arguments import as_number
from mcld_core.backends import Backend
from mcld_core.baselines.kd import DIVERGENCES, check_divergence
from mcld_core.config import MCLDConfig
from mcld_core.extensions._sequences import (
    SequenceArguments,
    contrast_sequences,
    reduce_sequences,
)
from mcld_core.extensions._stored import TopKLogits, check_stored
from mcld_core.extensions.nlp.layers import (
    LayerRows,
    arrays_of_teacher,
    contrast_rows,
    layer_rows,
    of_logits,
)
from mcld_core.extensions.nlp.losses import check_settings, contrast_weights
from mcld_core.formulas.objective import Block, Setup, TermWeights, is_zero, weighted_terms
from mcld_core.formulas.similarity import default_temperature
from mcld_core.losses import Objective
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


def linear_token_mcld_loss(
    hidden: Float[Array, "batch tokens width"],
    weight: Float[Array, "vocab width"],
    teacher: TopKLogits | tuple[Any, ...],
    labels: Int[Array, "batch tokens"] | None = None,
    *,
    bias: Float[Array, " vocab"] | None = None,
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
    """Return `token_mcld_loss` of ``hidden @ weightᵀ + bias`` without ever holding these logits.

    A similarity is ``<s_i, p_j> = <h_i, Wᵀ p_j> + <b, p_j>``, so a key has the width of the hidden
    states and no longer that of the vocabulary: the contrasts of n tokens cost n² · width. The
    divergence and the cross-entropy form logits by block, as `linear_token_kd_loss` does, and the
    memory is what it needs and the keys. TensorFlow still holds all logits.

    Args:
        hidden, weight, bias, teacher: as in `linear_token_kd_loss`.
        labels: (batch, tokens) int, as in `token_mcld_loss`; None: the teacher's arg max.
        config: weights and settings. The category-wise contrast is by ``"labels"``, and the
            similarity ``"probability"``, or ``"dot"`` where the teacher is not stored: the others
            need the logits, `token_mcld_loss`.
        attention_mask, sequence_labels, category, token_contrast, sequence_contrast: as in
            `token_mcld_loss`.
        shift, class_prior, progress, reduction, normalizer, return_terms: likewise.

    Returns:
        The loss, and with ``return_terms`` its parts, as in `token_mcld_loss`. ``hidden``,
        ``weight`` and ``bias`` receive a gradient.

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> hidden, weight = np.ones((1, 2, 2)), np.ones((2, 2))
        >>> labels = np.array([[0, 1]])
        >>> round(float(linear_token_mcld_loss(hidden, weight, (hidden, weight), labels)), 4)
        0.6931
    """
    function = "linear_token_mcld_loss"
    arguments = SequenceArguments(
        function,
        *(hidden, weight, bias, labels, attention_mask, sequence_labels),
        *arrays_of_teacher(function, teacher),
    )
    check_settings(arguments, config, category, sequence_labels)
    _check_similarity(arguments, config, isinstance(teacher, TopKLogits))
    arguments.flag("shift", shift)
    arguments.flag("return_terms", return_terms)
    arguments.reduction(reduction)
    weights = contrast_weights(arguments, config, token_contrast, sequence_contrast)
    layer, beside = (hidden, weight, bias), (labels, attention_mask, sequence_labels)
    rows = layer_rows(arguments, layer, teacher, beside, shift, config.ignore_index)
    values, terms = _divergences(arguments.ops, rows, config, reduction)
    temperature = config.temperature
    if temperature is None:
        temperature = default_temperature(config.similarity, rows.vocabulary)
    objective = Objective(
        replace(config, similarity="dot", temperature=temperature),
        weights._replace(ce=0.0),
        progress=progress,
        normalizer=normalizer,
        trains_keys=True,
    )
    keys = contrast_rows(arguments, rows, config, class_prior)
    loss, contrasts = contrast_sequences(
        arguments, keys, objective, token_contrast, category == "sequence", reduction
    )

    def reduced(values: Array) -> Array:
        return reduce_sequences(arguments, rows.sequences, values, reduction, normalizer)

    loss = loss + reduced(values)
    terms = {name: reduced(arguments.ops.stop_gradient(x)) for name, x in terms.items()}
    return (loss, contrasts | terms) if return_terms else loss


def _divergences(
    ops: Backend, given: LayerRows, config: MCLDConfig, reduction: Reduction
) -> tuple[Float[Array, " rows"], dict[str, Float[Array, " rows"]]]:
    """Return the weighted sum of the sample-wise term and the cross-entropy, and both."""
    rows = given.sequences.rows
    weights = TermWeights(sample=config.weight_sample, ce=config.weight_ce)
    if is_zero(weights.sample) and is_zero(weights.ce):
        nothing = ops.sum(0.0 * ops.astype(rows.student, rows.dtype), 1)
        return nothing, {"sample": nothing}
    numbers = (*weights, config.sample_temperature, config.beta)
    numbers = tuple(as_number(ops, number, rows.student, rows.dtype) for number in numbers)
    temperature, beta = numbers[4:]
    setup = Setup(None, None, TermWeights(*numbers[:4]), 1.0, 1.0, temperature, beta)

    def values(student: Array, teacher: Any, labels: Array) -> tuple[Array, Array, Array]:
        block = Block(student, teacher, labels, labels)
        total, _, sample, _, ce = weighted_terms(ops, config, rows.dtype, block, setup)
        return total, sample, ce

    block_rows = given.block_rows(ops, config.block_size, numbers)
    total, sample, ce = of_logits(ops, given, values, reduction, block_rows)
    terms = {"sample": sample} if is_zero(weights.ce) else {"sample": sample, "ce": ce}
    return total, terms


def _check_similarity(arguments: SequenceArguments, config: MCLDConfig, stored: bool) -> None:
    """Raise ValueError for settings whose formulas need logits as a whole."""
    function = arguments.function
    if stored:
        check_stored(function, config)
    for name, possible in (("similarity", ("probability", "dot")), ("category_contrast", "labels")):
        came = getattr(config, name)
        if came not in possible:
            raise ValueError(
                f"{function}: {name}={came!r} needs all logits, which are never formed here. Form "
                "them, and pass them to token_mcld_loss"
            )

"""Distillation of language models token by token: from logits, stored ones, a layer, or draws."""

from __future__ import annotations

from typing import Any, NamedTuple

from mcld_core.arguments import as_number, fits, is_number, is_plain, plain_number
from mcld_core.backends.protocol import KeptRows
from mcld_core.extensions._sequences import SequenceArguments, flat, following
from mcld_core.extensions.nlp.stored import TopKLogits, is_drawn, top_rows
from mcld_core.extensions.nlp.tokens import (
    Head,
    TokenLoss,
    check_token_logits,
    reduced_loss,
    token_rows,
)
from mcld_core.formulas.divergence import DIVERGENCES
from mcld_core.typing import Array, Bool, Float, Int, Reduction, Scalar, Tensor


class LastLayer(NamedTuple):
    """Hidden states and the layer of which they make logits: ``c tanh(a (W h + b) / c)``.

    Args:
        hidden: (batch, tokens, width), what the layer takes. The product is formed in its dtype:
            under mixed precision give it in half precision.
        weight: (vocab, width), as a linear layer of torch has it; tied to the embeddings or not.
            Frozen, it costs no gradient. With an adapter on it (LoRA) the merged one. A DTensor on
            a mesh of one axis (FSDP2) is gathered, and its gradient is the ranks' mean, as FSDP's.
        bias: (vocab,); None: none.
        softcap: c, as in Gemma 2; None: none.
        scale: a, as in Cohere; Granite's ``logits_scaling`` is 1/a.
    """

    hidden: Float[Array, "batch tokens width"]
    weight: Float[Array, "vocab width"]
    bias: Float[Array, " vocab"] | None = None
    softcap: float | None = None
    scale: Scalar = 1.0


def token_kd_loss(
    student_logits: list[Any] | Float[Tensor, "batch tokens vocab"] | LastLayer,
    teacher: Float[Array, "batch tokens vocab"] | TopKLogits | LastLayer | tuple[Any, ...],
    labels: Int[Array, "batch tokens"] | None = None,
    *,
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
) -> Tensor:
    """Distil a language model token by token, with the labels' cross-entropy in the same pass.

    For each token that counts ``T² D + ce_weight · CE``, with p the teacher's and q the student's
    softmax of z/T, and CE at temperature 1. ``divergence`` is ``"forward"`` (``D = KL(p ‖ q)``),
    ``"reverse"`` (``KL(q ‖ p)``), ``"jsd"`` (``μ KL(p ‖ m) + (1 - μ) KL(q ‖ m)``,
    ``m = μ p + (1 - μ) q``) or ``"tv"`` (``½ Σ |p - q|``, without T²).

    Tokens that do not count are never computed (from PyTorch 2.13 on in a compiled graph too). The
    gradient is formed with the value, in one array as large as the logits, which the backward pass
    gives away: a second one raises.

    Args:
        student_logits: (batch, tokens, vocab), any float dtype; or a `LastLayer`, as of
            `linear_token_kd_loss`.
        teacher: logits of the same shape; `TopKLogits`, compared on their k classes and the class
            of all others; or a `LastLayer`, of any width, also as a tuple ``(hidden, weight)``.
            Never receives a gradient.
        labels: (batch, tokens) int; a token whose label is ``ignore_index`` does not count. None:
            all count.
        divergence, mix: which, and μ of ``"jsd"`` in (0, 1).
        temperature: T > 0. Ranges are checked of Python numbers, not of arrays (a trained T).
        ce_weight: what the cross-entropy with the labels is multiplied by.
        attention_mask: (batch, tokens), True or 1 = keep; None keeps all.
        shift: ``labels`` are the inputs themselves, as in the causal models of transformers: the
            label of token i is ``labels[i + 1]``, and it counts where both do.
        ignore_index: the label of a token that does not count.
        sample_weight: (batch, tokens) ≥ 0, of the tokens whose logits they are.
        reduction: ``"mean"`` (the sum over ``normalizer``, else over the weights of the tokens that
            count), ``"sum"``, or ``"none"``: (batch, tokens).
        normalizer: what ``"mean"`` divides by, such as ``num_items_in_batch`` of a trainer.

    Returns:
        The loss, float32 (float64 for float64 logits).

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do; a reverse divergence
            that is infinite, because the teacher rules out a token that the student does not.

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
        JSD). Y. Leviathan, M. Kalman, Y. Matias, "Fast Inference from Transformers via Speculative
        Decoding", ICML 2023 (total variation: one less the share of accepted drafts).
    """
    if type(teacher) is tuple and len(teacher) <= len(LastLayer._fields):
        teacher = LastLayer(*teacher)
    sides: Any = student_logits, teacher
    parts = [x if isinstance(x, (LastLayer, TopKLogits)) else (x,) for x in sides]
    of_tokens = labels, attention_mask, sample_weight
    arguments = SequenceArguments("token_kd_loss", *parts[0], *parts[1], *of_tokens)
    ops = arguments.ops
    arguments.choice("divergence", divergence, DIVERGENCES)
    arguments.number("mix", mix, above=0.0)
    if is_number(plain_number(mix)) and mix >= 1:
        raise arguments.wrong("mix needs a number in (0, 1), ends left out", repr(mix))
    arguments.number("temperature", temperature, above=0.0)
    arguments.number("ce_weight", ce_weight, minimum=0.0)
    has_ce = not is_plain(ce_weight, 0)
    if has_ce and labels is None:
        raise arguments.wrong(f"ce_weight={ce_weight!r} needs labels", "None")
    if is_drawn(teacher) and (divergence != "forward" or not is_plain(temperature, 1)):
        raise arguments.wrong(
            "a teacher of draws (TopKLogits.from_samples) needs divergence='forward' and "
            "temperature=1, whose gradient alone is unbiased",
            f"{divergence!r}, {temperature!r}",
        )
    student, layer, head, vocabulary = _side(arguments, "student_logits", "", student_logits)
    tokens = token_rows(arguments, student, *of_tokens, shift, ignore_index, vocabulary)
    is_top, teacher_head = isinstance(teacher, TopKLogits), Head()
    beside: tuple[Any, ...]
    shared: tuple[Any, ...] = ()
    if isinstance(teacher, TopKLogits):
        top = top_rows(arguments, teacher, student, vocabulary, tokens, divergence)
        beside = tuple(x for x in top if x is not None)
    else:
        rows, shared, teacher_head, size = _side(arguments, "teacher", "the teacher's ", teacher)
        needed, theirs = (*student.shape[:2], vocabulary), (*rows.shape[:2], size)
        if not fits(theirs, needed):
            needs = f"the teacher needs the tokens and the vocabulary of the student, {needed}"
            cure = "Map a vocabulary that differs first: mcld_core.extensions.nlp.align_vocabulary"
            raise arguments.wrong(needs, theirs, cure)
        beside = (ops.stop_gradient(flat(ops, rows)),)
        shared = tuple(ops.stop_gradient(x) for x in shared)
    arguments.device("the teacher", beside[0], student)
    numbers = (mix, temperature, ce_weight, head.scale)
    numbers = tuple(as_number(ops, x, student, tokens.dtype) for x in numbers)
    mix, temperature, ce_weight, scale = numbers
    loss = TokenLoss(ops, tokens.dtype, divergence, temperature, mix, ce_weight, is_top, has_ce)
    loss = loss._replace(head=head._replace(scale=scale), teacher_head=teacher_head)
    beside = (*beside, tokens.labels) if has_ce else beside
    kept = KeptRows(flat(ops, student), beside, shared, layer)
    found = reduced_loss(arguments, tokens, loss, kept, numbers, reduction, normalizer)
    values = ops.host_values(found) if divergence == "reverse" else None
    if values is not None and bool((values == float("inf")).any()):  # no step comes of its gradient
        raise ValueError(
            f"{arguments.function}: divergence='reverse' is infinite, for the teacher gives "
            "probability 0 (a logit of -inf, or nothing beyond its k) to a token that the student "
            "does not. Set the student's logits there to -inf too, or take 'jsd', 'tv' or 'forward'"
        )
    return found


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
    ``reduction="none"``, and in a graph that PyTorch compiles, the logits of all tokens that count
    are held.

    Args:
        hidden, weight, bias, softcap, scale: the student's, as in `LastLayer`. The first three
            receive a gradient.
        teacher, labels: as in `token_kd_loss`, as are all others, the result and the errors.

    Example:
        >>> import numpy as np
        >>> hidden, weight = np.ones((1, 2, 3)), np.eye(3)
        >>> round(float(linear_token_kd_loss(hidden, weight, (hidden, 2 * weight))), 4)
        0.0
    """
    return token_kd_loss(
        LastLayer(hidden, weight, bias, softcap, scale), teacher, labels,
        divergence=divergence, mix=mix, temperature=temperature, ce_weight=ce_weight,
        attention_mask=attention_mask, shift=shift, ignore_index=ignore_index,
        sample_weight=sample_weight, reduction=reduction, normalizer=normalizer,
    )  # fmt: skip


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
        shift: the logits of token i are of ``tokens[i + 1]``, as in causal models; the
            log-probabilities stand where their tokens do.
        attention_mask, ignore_index, sample_weight, reduction, normalizer: as in `token_kd_loss`;
            so are the one backward pass, result and errors.

    Example:
        >>> import numpy as np
        >>> logits, drawn = np.zeros((1, 1, 2)), np.array([[1]])
        >>> round(float(sampled_token_kd_loss(logits, drawn, np.log([[0.25]]))), 4)
        -0.4805
    """
    given = student_logits, tokens, teacher_logprobs, old_logprobs, attention_mask, sample_weight
    arguments = SequenceArguments("sampled_token_kd_loss", *given)
    ops = arguments.ops
    student = arguments.array("student_logits", student_logits, arguments.like)
    check_token_logits(arguments, "student_logits", student)
    tokens = arguments.array("tokens", tokens, student)
    of_tokens = tokens, attention_mask, sample_weight, shift, ignore_index
    drawn = token_rows(arguments, student, *of_tokens, student.shape[2], "tokens")
    scores = []
    for name, x in (("teacher_logprobs", teacher_logprobs), ("old_logprobs", old_logprobs)):
        if x is None and name == "old_logprobs":
            continue
        found = arguments.shaped(name, x, student, student.shape[:2], "one a token")
        found = flat(ops, ops.stop_gradient(found))
        found = following(ops, student, found, None)[0] if shift else found
        arguments.finite(name, found, drawn.kept)
        scores.append(ops.astype(found, drawn.dtype)[None, :])
    loss = TokenLoss(ops, drawn.dtype, "sampled", has_labels=True)
    beside = ops.matrix_transpose(ops.concat(scores)), drawn.labels
    rows = KeptRows(flat(ops, student), beside)
    return reduced_loss(arguments, drawn, loss, rows, (), reduction, normalizer)


def _side(
    arguments: SequenceArguments, name: str, of: str, given: Any
) -> tuple[Array, tuple[Any, ...], Head, Any]:
    """Return the logits, or what a last layer takes, its parameters, its head; the vocabulary.

    Raise unless shapes, dtypes, devices and numbers fit.
    """
    if not isinstance(given, LastLayer):
        logits = arguments.array(name, given, arguments.like)
        check_token_logits(arguments, name, logits)
        return logits, (), Head(), logits.shape[2]
    ops, names = arguments.ops, [f"{of}{name}" for name in ("hidden", "weight", "bias")]
    hidden = arguments.array(names[0], given.hidden, arguments.like)
    weight = _gathered(arguments, names[1], arguments.array(names[1], given.weight, hidden))
    ours, theirs = tuple(hidden.shape), tuple(weight.shape)
    if len(ours) != 3 or len(theirs) != 2 or not theirs[0] or not fits(ours[2:], theirs[1:]):
        forms = "(batch, tokens, width) and (vocab, width), as a linear layer of torch has them"
        needs = f"{names[0]} and {names[1]} need shapes {forms}"
        raise arguments.wrong(needs, f"{ours} and {theirs}")
    parameters: tuple[Any, ...] = (weight,)
    if given.bias is not None:
        each = f"one entry a row of {names[1]}"
        bias = arguments.shaped(names[2], given.bias, hidden, theirs[:1], each)
        parameters = (weight, _gathered(arguments, names[2], bias))
    for name, x in zip(names, (hidden, *parameters), strict=False):
        if "float" not in ops.dtype(x):
            raise arguments.wrong_type(f"{name} needs a float dtype", ops.dtype(x))
        arguments.device(name, x, hidden, names[0])
    if given.softcap is not None:
        arguments.number(f"{of}softcap", given.softcap, above=0.0)
    arguments.number(f"{of}scale", given.scale)
    return hidden, parameters, Head(given.scale, given.softcap), theirs[0]


def _gathered(arguments: SequenceArguments, name: str, x: Array) -> Array:
    """Return a parameter that ranks share (FSDP2) as a whole, its gradient the ranks' mean."""
    if not hasattr(x, "full_tensor"):
        return x
    from torch.distributed.tensor import Partial

    if x.device_mesh.ndim != 1:
        raise TypeError(
            f"{arguments.function}: {name} is a DTensor on a mesh of {x.device_mesh.ndim} axes; "
            "pass its full_tensor(), with the grad_placements that the mesh needs"
        )
    whole, ranks = x.full_tensor(grad_placements=[Partial()]), x.device_mesh.size()
    if whole.requires_grad:
        whole.register_hook(lambda gradient: gradient / ranks)
    return whole

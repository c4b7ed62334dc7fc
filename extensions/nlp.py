"""Tokens: the three contrasts on the logits of language models, and teachers stored as top k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mcld_core.backends import Backend, backend_for
from mcld_core.config import MCLDConfig
from mcld_core.extensions._arguments import check_weight, fits, row_ids
from mcld_core.extensions._sequences import (
    Groups,
    contrast_sequences,
    flat_labels,
    flat_mask,
    following,
    prepare_sequences,
    tensors,
)
from mcld_core.typing import Array, Bool, Float, Int, Num, Scalar

CATEGORIES = ("token", "sequence")


class TopKLogits(NamedTuple):
    """A teacher's logits stored by their largest entries: k of a vocabulary, and the rest's mass.

    The mass of the rest is spread evenly over the other ``vocabulary - k`` tokens; without it the
    top k are renormalised and every other token has probability 0.

    Args:
        values: (batch, tokens, k) logits (or log-probabilities) of the top tokens.
        indices: (batch, tokens, k) int, their ids, each at most once a row. Padded tokens may
            hold anything.
        tail: (batch, tokens) probability of all other tokens together; None: 0.

    Example:
        >>> import numpy as np
        >>> stored = TopKLogits.from_logits(np.log([[[0.5, 0.2, 0.2, 0.1]]]), k=1)
        >>> [round(float(p), 3) for p in np.exp(stored.dense(4)[0, 0]) / 1.0]
        [0.5, 0.167, 0.167, 0.167]
    """

    values: Float[Array, "batch tokens k"]
    indices: Int[Array, "batch tokens k"]
    tail: Float[Array, "batch tokens"] | None = None

    @classmethod
    def from_logits(cls, logits: Float[Array, "batch tokens vocab"], k: int) -> TopKLogits:
        """Keep the k largest logits of each token, and the mass of the rest (NumPy, for storage).

        Args:
            logits: (batch, tokens, vocab), any float dtype.
            k: how many, 1 … vocab.

        Raises:
            ValueError: k outside 1 … vocabulary.
        """
        x = np.asarray(logits, "float64" if _is_double(logits) else "float32")
        if not 1 <= k <= x.shape[-1]:
            raise ValueError(
                f"TopKLogits.from_logits: k needs a number in 1 … {x.shape[-1]}, the size of the "
                f"vocabulary; got {k}"
            )
        indices = np.argsort(-x, axis=-1, kind="stable")[..., :k].astype("int32")
        values = np.take_along_axis(x, indices, -1)
        shifted = np.exp(x - x.max(-1, keepdims=True))
        rest = shifted.copy()
        np.put_along_axis(rest, indices, 0.0, -1)
        return cls(values, indices, rest.sum(-1) / shifted.sum(-1))

    def dense(
        self,
        vocabulary: int,
        where: Bool[Array, "batch tokens"] | None = None,
    ) -> Float[Array, "batch tokens vocab"]:
        """Return logits over the vocabulary, -inf where a token has probability 0.

        Args:
            vocabulary: how many.
            where: (batch, tokens), True or 1 = keep: what is padded may hold anything, and is
                anything in the result.

        Raises:
            ValueError: shapes that differ, or ids outside the vocabulary or twice in a row.
        """
        function = "TopKLogits.dense"
        ops = backend_for(function, *self, where)
        values = ops.asarray(self.values, self.indices if ops.is_tensor(self.indices) else None)
        kept = None if where is None else flat_mask(function, ops, "where", where, values, 2)
        return _dense(ops, self, values, vocabulary, kept)


class VocabularyAlignment(NamedTuple):
    """Where each token of the student's vocabulary stands in the teacher's.

    Call it with teacher logits (…, teacher vocabulary) to have them over the student's
    vocabulary, -inf where the teacher lacks the token: its probability is 0, where a logit of 0
    would be a real probability.
    """

    mapping: Int[Array, "vocab"]  # noqa: F821
    """For each student id the teacher's id, -1 where the teacher lacks the token."""
    teacher_size: int

    def __call__(self, teacher_logits: Float[Array, "... classes"]) -> Float[Array, "... vocab"]:
        """Return the teacher's logits over the student's vocabulary.

        Raises:
            ValueError: logits of another width than the teacher's vocabulary.
        """
        ops = backend_for("VocabularyAlignment", teacher_logits)
        logits = ops.asarray(teacher_logits)
        if logits.shape[-1] != self.teacher_size:
            raise ValueError(
                f"VocabularyAlignment: teacher_logits need {self.teacher_size} entries a row, "
                f"the teacher's vocabulary; got shape {tuple(logits.shape)}. Models often pad "
                "their vocabulary: pass teacher_size to align_vocabulary"
            )
        lead = [ops.size(logits, axis) for axis in range(len(logits.shape) - 1)]
        rows = ops.matrix_transpose(ops.reshape(logits, (-1, self.teacher_size)))
        columns = ops.take(rows, ops.asarray(np.maximum(self.mapping, 0), logits))
        known = ops.asarray(self.mapping >= 0, logits)
        columns = ops.where(known[:, None], columns, float("-inf"))
        return ops.reshape(ops.matrix_transpose(columns), (*lead, len(self.mapping)))

    @property
    def shared(self) -> int:
        """The number of tokens that both vocabularies have."""
        return int((self.mapping >= 0).sum())


def align_vocabulary(
    teacher_vocab: Mapping[str, int] | Sequence[str],
    student_vocab: Mapping[str, int] | Sequence[str],
    *,
    teacher_size: int | None = None,
    student_size: int | None = None,
) -> VocabularyAlignment:
    """Find the tokens that two vocabularies share.

    Only whole tokens are matched, and only if both tokenizers cut the text alike do the logits at
    one place speak of the same next token: use one tokenizer for both, or vocabularies of which
    one extends the other. Drop places whose label the teacher lacks from the loss
    (``ignore_index``): its probability there is 0.

    Args:
        teacher_vocab: token → id, or the tokens in the order of their ids.
        student_vocab: the same of the student.
        teacher_size: entries of a row of teacher logits, where padded beyond the vocabulary.
        student_size: the same of the student.

    Returns:
        A `VocabularyAlignment`, called with teacher logits.

    Raises:
        ValueError: no token is shared, or an id lies outside the size.

    Example:
        >>> import numpy as np
        >>> alignment = align_vocabulary(["a", "b", "c"], ["c", "d", "a"])
        >>> alignment(np.array([[1.0, 2.0, 3.0]]))
        array([[  3., -inf,   1.]])
    """
    teacher, teacher_size = _ids("teacher", teacher_vocab, teacher_size)
    student, student_size = _ids("student", student_vocab, student_size)
    mapping = np.full(student_size, -1, "int32")
    for token, index in student.items():
        mapping[index] = teacher.get(token, -1)
    if (mapping < 0).all():
        raise ValueError(
            f"align_vocabulary: teacher_vocab and student_vocab need tokens in common; got "
            f"{len(teacher)} and {len(student)} tokens with none shared. Compare how the two "
            "tokenizers mark spaces and word pieces"
        )
    return VocabularyAlignment(mapping, teacher_size)


def token_mcld_loss(
    student_logits: Float[Array, "batch tokens vocab"],
    teacher_logits: Float[Array, "batch tokens vocab"] | TopKLogits,
    labels: Num[Array, "batch tokens"] | None = None,
    *,
    attention_mask: Bool[Array, "batch tokens"] | Int[Array, "batch tokens"] | None = None,
    sequence_labels: Int[Array, "batch"] | None = None,  # noqa: F821
    category: str = "token",
    token_contrast: Scalar | None = None,
    shift: bool = False,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    progress: Scalar = 1.0,
    return_terms: bool = False,
) -> Any:
    """Contrast a language model's logits with a teacher's: by sequence, token and category.

    For valid tokens i of sequences b, a reconstruction that carries the three contrasts over:

    ``L = w_ins · mean_b InfoNCE(s̄_b; p̄) + w_sam · mean_i [ L_sam,i + γ InfoNCE(s_i; p_j of the
    same sequence) ] + ramp · w_cat · mean_i L_cat,i + w_ce · mean_i L_ce,i``

    - instance-wise: ``s̄_b`` is the mean of a sequence's student logits, ``p̄_b`` of its teacher
      probabilities; sequences of the same ``sequence_labels`` are no negatives;
    - sample-wise: the decoupled divergence of each token, and the contrast of each token with the
      other tokens of its sequence, those of the same label left out;
    - category-wise: each token against all valid tokens of the batch, those of its label being
      the positives; with ``category="sequence"`` each sequence against all sequences.

    The means are over what is valid in the batch, so padding changes nothing. For the
    classification of whole texts `mcld_core.mcld_loss` itself is the loss. Memory grows with
    tokens · vocabulary and with one block of anchors · tokens, never tokens²; but the form that
    ``torch.compile`` fuses holds tokens² numbers. ``torch.compiler.disable(token_mcld_loss)``
    beside a compiled model keeps to blocks.

    Args:
        student_logits: (batch, tokens, vocab), any float dtype.
        teacher_logits: the same shape, or `TopKLogits`; never receives a gradient.
        labels: (batch, tokens) int, -100 where a token does not count, or (batch, tokens, vocab)
            soft; None: the teacher's arg max.
        attention_mask: (batch, tokens), True or 1 = keep; None keeps all.
        sequence_labels: (batch,) int ids, such as a topic; negative: shared with no other. Ids
            beyond 32 bits need 64-bit integers: in JAX ``jax_enable_x64``.
        category: ``"token"`` or ``"sequence"`` (not with ``category_contrast="prototypes"``).
        token_contrast: γ; None: 1/T², which offsets the factor T² of the divergence beside it.
        shift: ``labels`` are the inputs themselves: the label of token i is ``labels[i + 1]``, as
            in the causal models of transformers. Otherwise labels are already aligned.
        config: weights and settings; a weight of 0 switches its term off.
        progress: the part of the training that is done, 0 to 1; drives the ramp.
        return_terms: also return the parts.

    Returns:
        The loss, float32 (float64 for float64 logits). With ``return_terms`` a pair of it and a
        dict: ``"instance"``, ``"sample"`` (the divergence), ``"token"`` (the contrast within the
        sequence), ``"category"`` (``"ce"`` when used), each without weight, and ``"ramp"``.

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> logits = np.log(np.full((1, 2, 2), 0.5))
        >>> round(float(token_mcld_loss(logits, logits, np.array([[0, 1]]))), 4)
        0.704

    References:
        Q. Wang, J. Zhou, arXiv:2411.10693, 2024 (the three contrasts, on images).
    """
    function = "token_mcld_loss"
    parts = teacher_logits if isinstance(teacher_logits, TopKLogits) else (teacher_logits,)
    ops = backend_for(function, student_logits, *parts, labels, attention_mask, sequence_labels)
    if category not in CATEGORIES:
        raise ValueError(f"{function}: category needs 'token' or 'sequence'; got {category!r}")
    if category == "sequence" and sequence_labels is None:
        raise ValueError(
            f"{function}: category='sequence' needs sequence_labels, (batch,) int; got None"
        )
    if category == "sequence" and config.category_contrast == "prototypes":
        raise ValueError(
            f"{function}: category='sequence' has no prototypes, which are one a token of the "
            "vocabulary; use category='token' or category_contrast='labels'"
        )
    check_weight(function, "token_contrast", token_contrast)
    student, teacher = tensors(ops, student_logits, parts[0])
    theirs = tuple(teacher.shape)
    if isinstance(teacher_logits, TopKLogits):
        theirs = (*theirs[:2], student.shape[-1])
    _check_tokens(function, tuple(student.shape), theirs)
    if labels is not None:
        labels = flat_labels(function, ops, "labels", labels, student)
    kept = None
    if attention_mask is not None:
        kept = flat_mask(function, ops, "attention_mask", attention_mask, student, 2)
    if shift:
        labels, kept = following(ops, student, labels, kept)
    if isinstance(teacher_logits, TopKLogits):
        counts = kept
        if labels is not None and len(labels.shape) == 1:
            labelled = labels != config.ignore_index
            counts = labelled if kept is None else kept & labelled
        teacher = _dense(ops, teacher_logits, teacher, student.shape[-1], counts)
    if sequence_labels is not None:
        sequence_labels = row_ids(function, ops, "sequence_labels", sequence_labels, student)
    sequences = prepare_sequences(
        function, ops, student, teacher, labels, kept, config.ignore_index
    )
    loss, terms = contrast_sequences(
        function,
        ops,
        sequences,
        Groups(sequence_labels),
        config=config,
        category_by_sequence=category == "sequence",
        row_contrast=token_contrast,
        progress=progress,
    )
    return (loss, terms) if return_terms else loss


def _check_tokens(function: str, ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> None:
    for argument, shape in (("student_logits", ours), ("teacher_logits", theirs)):
        if len(shape) != 3:
            raise ValueError(
                f"{function}: {argument} needs three axes (batch, tokens, vocab); got {shape}. "
                "For one row of logits a text use mcld_core.mcld_loss"
            )
    if not fits(ours[2:], theirs[2:]):
        raise ValueError(
            f"{function}: student_logits and teacher_logits need the same vocabulary; got {ours} "
            f"and {theirs}. Map the teacher's first: mcld_core.extensions.nlp.align_vocabulary"
        )
    if not fits(ours, theirs):
        raise ValueError(
            f"{function}: student_logits and teacher_logits need the same shape; got {ours} and "
            f"{theirs}"
        )


def _dense(
    ops: Backend,
    stored: TopKLogits,
    values: Array,
    vocabulary: int,
    kept: Bool[Array, "rows"] | None,  # noqa: F821
) -> Array:
    """Return the dense logits; the top values as they are, the rest at the level of the tail.

    Rows that are not kept may hold anything and hold anything in the result.
    """
    indices = ops.asarray(stored.indices, values)
    if len(values.shape) != 3 or not fits(values.shape, indices.shape) or not values.shape[2]:
        raise ValueError(
            "TopKLogits: values and indices need one shape (batch, tokens, k), with k ≥ 1 known "
            f"when traced; got {tuple(values.shape)} and {tuple(indices.shape)}"
        )
    k = values.shape[2]
    indices = ops.reshape(indices, (-1, k))
    _check_indices(ops, indices, kept, vocabulary)
    indices = ops.astype(indices, "int32")
    if kept is not None:
        indices = ops.where(kept[:, None], indices, 0)
    shape = [ops.size(values, 0), ops.size(values, 1)]
    dtype = "float64" if ops.dtype(values) == "float64" else "float32"
    top = ops.stop_gradient(ops.astype(ops.reshape(values, (-1, k)), dtype))
    peak = ops.max(top, 1, keepdims=True)
    if stored.tail is None or k == vocabulary:
        rest = 0.0 * peak - float("inf")
    else:
        tail = ops.astype(ops.asarray(stored.tail, values), dtype)
        if not fits(tail.shape, values.shape[:2]):
            raise ValueError(
                f"TopKLogits: tail needs shape {tuple(values.shape[:2])}, one mass a token; got "
                f"{tuple(tail.shape)}"
            )
        tail = ops.reshape(tail, (-1, 1))
        log_sum = ops.log(ops.sum(ops.exp(top - peak), 1, keepdims=True)) + peak
        positive = tail > 0
        odds = ops.where(positive, tail, 0.5) / ops.maximum(1.0 - tail, 1e-30)
        level = log_sum + ops.log(odds / float(vocabulary - k))
        rest = ops.where(positive, level, float("-inf"))
    columns = 0.0 * ops.astype(ops.arange(vocabulary, values), dtype)[None, :]
    return ops.reshape(ops.put_along_axis(rest + columns, indices, top), (*shape, vocabulary))


def _check_indices(ops: Backend, ids: Array, kept: Array | None, vocabulary: int) -> None:
    """Raise ValueError for ids that no kept row may have, where they can be read for free."""
    indices, mask = ops.host_values(ids), None if kept is None else ops.host_values(kept)
    if indices is None or (kept is not None and mask is None):
        return
    indices = indices if mask is None else indices[mask]
    if indices.size == 0:
        return
    if indices.min() < 0 or indices.max() >= vocabulary:
        raise ValueError(
            f"TopKLogits: indices need ids in 0 … {vocabulary - 1}, the student's vocabulary; got "
            f"{indices.min()} … {indices.max()}. Align the vocabularies before storing, or densify "
            "over the teacher's: TopKLogits.dense, then align_vocabulary"
        )
    ordered = np.sort(indices, -1)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        raise ValueError("TopKLogits: indices need each id at most once a token; got one twice")


def _ids(
    side: str, vocab: Mapping[str, int] | Sequence[str], size: int | None
) -> tuple[dict[str, int], int]:
    ids = dict(vocab) if isinstance(vocab, Mapping) else {t: i for i, t in enumerate(vocab)}
    needed = max(ids.values(), default=-1) + 1
    if size is not None and size < needed:
        raise ValueError(
            f"align_vocabulary: {side}_size needs at least {needed}, the largest id plus 1; got "
            f"{size}"
        )
    return ids, needed if size is None else size


def _is_double(logits: Any) -> bool:
    return "float64" in str(getattr(logits, "dtype", "float64"))

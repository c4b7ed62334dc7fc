"""Vocabularies that differ: where the tokens of one stand in the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mcld_core.arguments import Checks, to_numpy
from mcld_core.backends import backend_for
from mcld_core.extensions.nlp.stored import TopKLogits, is_drawn
from mcld_core.typing import Array, Float, Int


class VocabularyAlignment(NamedTuple):
    """Where each token of the student's vocabulary stands in the teacher's.

    Call it with teacher logits (…, teacher vocabulary) to have them over the student's
    vocabulary, -inf where the teacher lacks the token: its probability is 0, where a logit of 0
    would be a real probability.

    `TopKLogits` become such of the student's vocabulary, in NumPy, for storage. Entries of tokens
    that the student lacks are left out, and what stays, the class of all others too, is scaled to
    sum to 1. A token of which nothing stays has all its mass in that class.
    """

    mapping: Int[Array, " vocab"]
    """For each student id the teacher's id, -1 where the teacher lacks the token."""
    teacher_size: int

    def __call__(self, teacher_logits: Float[Array, "... classes"] | TopKLogits) -> Any:
        """Return the teacher's logits over the student's vocabulary.

        Raises:
            ValueError: logits of another width than the teacher's vocabulary; stored ids outside
                of it.
        """
        if isinstance(teacher_logits, TopKLogits):
            return _align_stored(self, teacher_logits)
        ops = backend_for("VocabularyAlignment", teacher_logits)
        logits = ops.asarray(teacher_logits)
        if tuple(logits.shape[-1:]) != (self.teacher_size,):
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
        ValueError, TypeError: no token is shared; ids that are not ints ≥ 0, lie outside the size
            or stand for two tokens; a token that stands twice.

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


def _align_stored(alignment: VocabularyAlignment, stored: TopKLogits) -> TopKLogits:
    values, ids = to_numpy(stored.values).astype("float64"), to_numpy(stored.indices)
    size, stands = alignment.teacher_size, np.isfinite(values)
    if (stands & ((ids < 0) | (ids >= size))).any():
        needs = f"TopKLogits need ids in 0 … {size - 1}, the teacher's vocabulary"
        came = f"{ids[stands].min()} … {ids[stands].max()}"
        raise Checks("VocabularyAlignment").wrong(needs, came)
    students = np.full(size, -1, "int32")
    students[alignment.mapping[alignment.mapping >= 0]] = np.flatnonzero(alignment.mapping >= 0)
    ids = students[np.where(stands, ids, 0)]
    tail = -np.inf if stored.tail is None else to_numpy(stored.tail).astype("float64")
    tail = np.broadcast_to(tail, ids.shape[:-1])[..., None]
    columns = np.concatenate([np.where(stands & (ids >= 0), values, -np.inf), tail], -1)
    total = np.logaddexp.reduce(columns, -1, keepdims=True)
    lost = np.isneginf(total)
    columns = (columns - np.where(lost, 0.0, total)).astype("float32")
    stays = stored.tail is None or (is_drawn(stored) and not lost.any())
    rest: Any = stored.tail if stays else np.where(lost, np.float32(0.0), columns)[..., -1]
    return TopKLogits(columns[..., :-1], np.maximum(ids, 0), rest)


def _ids(
    side: str, vocab: Mapping[str, int] | Sequence[str], size: int | None
) -> tuple[dict[str, int], int]:
    """Return token → id and how many ids there are; raise where these are not one and one."""
    checks = Checks("align_vocabulary")
    ids = dict(vocab) if isinstance(vocab, Mapping) else {t: i for i, t in enumerate(vocab)}
    found = np.asarray(list(ids.values()))
    if found.size and found.dtype.kind not in "iu":
        raise checks.wrong_type(f"{side}_vocab needs int ids", found.dtype)
    least, largest, distinct = found.min(initial=0), found.max(initial=-1), np.unique(found).size
    size = int(largest) + 1 if size is None else checks.integer(f"{side}_size", size)
    if least < 0 or largest >= size or distinct < len(vocab):
        needs = f"{side}_vocab with {side}_size {size} needs ids in 0 … {size - 1}, one a token"
        came = f"{distinct} ids in {least} … {largest} for {len(vocab)} tokens"
        raise checks.wrong(needs, came)
    return ids, size

"""Vocabularies that differ: where the tokens of one stand in the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mcld_core.backends import backend_for
from mcld_core.extensions._stored import LEAST, TopKLogits, normalised
from mcld_core.typing import Array, Float, Int


class VocabularyAlignment(NamedTuple):
    """Where each token of the student's vocabulary stands in the teacher's.

    Call it with teacher logits (…, teacher vocabulary) to have them over the student's
    vocabulary, -inf where the teacher lacks the token: its probability is 0, where a logit of 0
    would be a real probability.

    `TopKLogits` become such of the student's vocabulary, in NumPy, for storage. Entries of tokens
    that the student lacks are dropped, and the rest is scaled to sum to 1; of the tail the part
    of the shared tokens stays. Other tokens of the student take the empty places, with the
    share that each token of the tail has. A token of whose entries and tail nothing is shared is
    spread evenly over the vocabulary.
    """

    mapping: Int[Array, " vocab"]
    """For each student id the teacher's id, -1 where the teacher lacks the token."""
    teacher_size: int

    def __call__(self, teacher_logits: Float[Array, "... classes"] | TopKLogits) -> Any:
        """Return the teacher's logits over the student's vocabulary.

        Raises:
            ValueError: logits of another width than the teacher's vocabulary; stored ids outside
                of it, or more entries than the student has tokens.
        """
        if isinstance(teacher_logits, TopKLogits):
            return _align_stored(self, teacher_logits)
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
    shape, k = tuple(stored.values.shape), stored.values.shape[-1]
    size = len(alignment.mapping)
    if k > size:
        raise ValueError(
            f"VocabularyAlignment: TopKLogits need at most {size} entries, the student's "
            f"vocabulary; got {k}"
        )
    where = np.ones(shape[:-1], bool)
    log_p, ids, tail = normalised("VocabularyAlignment", stored, where, alignment.teacher_size)
    students = np.full(alignment.teacher_size, -1, "int32")
    students[alignment.mapping[alignment.mapping >= 0]] = np.flatnonzero(alignment.mapping >= 0)
    ids = students[ids]
    known = ids >= 0
    count = known.sum(-1)
    outside = max(alignment.teacher_size - k, 1)  # how many tokens the tail is spread over
    tail = tail * (alignment.shared - count) / outside
    p = np.where(known, np.exp(log_p), 0.0)
    total = p.sum(-1) + tail
    lost = total <= 0.0
    p, tail = p / np.where(lost, 1.0, total)[:, None], np.where(lost, 1.0, tail / (total + lost))
    share = tail / np.maximum(size - count, 1)
    p = np.where(known, p, share[:, None])
    with np.errstate(divide="ignore"):
        values = np.maximum(np.log(p), LEAST).astype("float32").reshape(shape)
    ids = _fill(ids, known, size).astype("int32").reshape(shape)
    tail = (share * (size - k)).astype("float32").reshape(shape[:-1])
    return TopKLogits(values, ids, tail)


def _fill(
    ids: np.ndarray[Any, Any], known: np.ndarray[Any, Any], size: int
) -> np.ndarray[Any, Any]:
    """Put the smallest ids that a row does not have at its unknown places."""
    rows, k = ids.shape
    used = np.zeros((rows, min(size, 2 * k)), bool)
    row, place = np.nonzero(known & (ids < used.shape[1]))
    used[row, ids[row, place]] = True
    free = np.argsort(used, axis=-1, kind="stable")
    rank = np.maximum(np.cumsum(~known, -1) - 1, 0)
    return np.where(known, ids, np.take_along_axis(free, rank, -1))


def _ids(
    side: str, vocab: Mapping[str, int] | Sequence[str], size: int | None
) -> tuple[dict[str, int], int]:
    ids = dict(vocab) if isinstance(vocab, Mapping) else {t: i for i, t in enumerate(vocab)}
    found = np.asarray(list(ids.values()))
    if found.size and found.dtype.kind not in "iu":
        raise TypeError(f"align_vocabulary: {side}_vocab needs int ids; got {found.dtype}")
    if found.size and found.min() < 0:
        raise ValueError(f"align_vocabulary: {side}_vocab needs ids ≥ 0; got {found.min()}")
    distinct = np.unique(found).size
    if distinct < len(vocab):
        raise ValueError(
            f"align_vocabulary: {side}_vocab needs one id a token and one token an id; got "
            f"{len(vocab)} entries with {distinct} ids of their own. Name the tokens that stand "
            "twice apart, or drop them"
        )
    needed = max(ids.values(), default=-1) + 1
    if size is not None and size < needed:
        raise ValueError(
            f"align_vocabulary: {side}_size needs at least {needed}, the largest id plus 1; got "
            f"{size}"
        )
    return ids, needed if size is None else size

"""`TopKLogits` and `align_vocabulary` in every backend."""

from __future__ import annotations

import numpy as np
import pytest

from mcld_core import MCLDConfig
from mcld_core.extensions.nlp import TopKLogits, align_vocabulary, token_mcld_loss
from tests.cases import logits
from tests.extensions.nlp.token_cases import SCALE
from tests.frameworks import Framework
from tests.tolerance import assert_value, assert_zero


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_aligned_vocabulary_gives_unknown_tokens_probability_zero(
    backend: Framework, dtype: str
) -> None:
    teacher_vocab = {"a": 0, "b": 3, "c": 1}
    alignment = align_vocabulary(teacher_vocab, ["c", "d", "a", "b"], teacher_size=5)
    teacher = logits(np.random.default_rng(13), 2, 3, 5)
    found = backend.to_numpy(alignment(backend.array(teacher, dtype)))
    assert (alignment.mapping >= 0).sum() == 3
    np.testing.assert_array_equal(found[..., [0, 2, 3]], teacher[..., [1, 0, 3]])
    assert (found[..., 1] == -np.inf).all()
    student = logits(np.random.default_rng(14), 2, 3, 4)
    labels = backend.array(np.full((2, 3), 2))
    loss = token_mcld_loss(
        backend.array(student, dtype), alignment(backend.array(teacher, dtype)), labels
    )
    reference = token_mcld_loss(student, np.maximum(found, -1e20), np.full((2, 3), 2))
    assert_value(backend.to_numpy(loss), reference, dtype, SCALE)


def test_a_vocabulary_of_logit_zero_is_not_what_alignment_gives() -> None:
    """Identical models diverge by 0: a padded token of logit 0 would show here."""
    alignment = align_vocabulary(["a", "b"], ["a", "b", "new"])
    teacher = np.asarray([[[1.0, -1.0]]])
    student = np.asarray([[[1.0, -1.0, -60.0]]])
    config = MCLDConfig(weight_instance=0, weight_category=0, weight_sample=1)
    loss = token_mcld_loss(
        student, alignment(teacher), np.asarray([[0]]), config=config, token_contrast=0.0
    )
    assert_zero(loss, "float32")


def test_errors_of_the_helpers() -> None:
    with pytest.raises(ValueError, match="tokens in common; got 1 and 2 tokens"):
        align_vocabulary(["a"], ["b", "c"])
    with pytest.raises(
        ValueError, match=r"teacher_size 1 needs ids in 0 … 0, one a token; got 2 ids in 0 … 1"
    ):
        align_vocabulary(["a", "b"], ["b"], teacher_size=1)
    with pytest.raises(ValueError, match=r"need 2 entries a row.*got shape \(1, 3\)"):
        align_vocabulary(["a", "b"], ["b"])(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"need 2 entries a row.*got shape \(\)"):
        align_vocabulary(["a", "b"], ["b"])(np.float64(0.0))


@pytest.mark.parametrize("tail", ["mass", "none", "drawn"])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_stored_rows_are_aligned(k: int, tail: str) -> None:
    """What the student has stays, scaled to 1 with the tail, which has all where nothing stays."""
    teacher_vocab, student_vocab = list("abcdef"), list("xcbyaezw")
    alignment = align_vocabulary(teacher_vocab, student_vocab)
    rows = 2.0 * np.random.default_rng(20).normal(size=(2, 5, 6))
    stored = TopKLogits.from_logits(rows, k)
    if tail != "mass":
        stored = stored._replace(tail=None if tail == "none" else -np.inf)
    aligned = alignment(stored)
    assert aligned.values.shape == (2, 5, k)
    for b, i in np.ndindex(2, 5):
        left = {}
        for token, x in zip(stored.indices[b, i], stored.values[b, i], strict=True):
            if teacher_vocab[token] in student_vocab:
                left[student_vocab.index(teacher_vocab[token])] = np.exp(x)
        rest = np.exp(stored.tail[b, i]) if tail == "mass" else 0.0
        total = sum(left.values()) + rest
        stands = np.isfinite(aligned.values[b, i])
        found = dict(zip(aligned.indices[b, i][stands], aligned.values[b, i][stands], strict=True))
        assert sorted(found) == sorted(left)
        for token, p in left.items():
            np.testing.assert_allclose(np.exp(found[token]), p / total, rtol=1e-5)
        if tail == "mass" or (tail == "drawn" and np.ndim(aligned.tail)):
            expected = rest / total if total > 0 else 1.0
            np.testing.assert_allclose(np.exp(aligned.tail[b, i]), expected, rtol=1e-5, atol=1e-9)


def test_ids_outside_of_the_teachers_vocabulary() -> None:
    alignment = align_vocabulary(list("abcd"), list("ab"))
    with pytest.raises(ValueError, match=r"ids in 0 … 3, the teacher's vocabulary; got 4 … 4"):
        alignment(TopKLogits(np.zeros((1, 1, 1)), np.full((1, 1, 1), 4)))

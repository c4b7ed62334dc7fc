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


def top_k(backend: Framework, teacher: np.ndarray, k: int, tail: bool = True) -> TopKLogits:
    stored = TopKLogits.from_logits(teacher, k)
    return TopKLogits(
        backend.array(stored.values, "float64"),
        backend.array(stored.indices),
        backend.array(stored.tail, "float64") if tail else None,
    )


def test_stored_top_k_keeps_the_mass_of_the_rest() -> None:
    teacher = logits(np.random.default_rng(12), 2, 3, 7)
    stored = TopKLogits.from_logits(teacher, 3)
    p = np.exp(teacher) / np.exp(teacher).sum(-1, keepdims=True)
    np.testing.assert_allclose(stored.tail, np.sort(p, -1)[..., :4].sum(-1), rtol=1e-12)
    np.testing.assert_array_equal(stored.values, -np.sort(-teacher, -1)[..., :3])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_aligned_vocabulary_gives_unknown_tokens_probability_zero(
    backend: Framework, dtype: str
) -> None:
    teacher_vocab = {"a": 0, "b": 3, "c": 1}
    alignment = align_vocabulary(teacher_vocab, ["c", "d", "a", "b"], teacher_size=5)
    teacher = logits(np.random.default_rng(13), 2, 3, 5)
    found = backend.to_numpy(alignment(backend.array(teacher, dtype)))
    assert alignment.shared == 3
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
    with pytest.raises(ValueError, match=r"k needs an int in 1 … 5; got 6"):
        TopKLogits.from_logits(np.zeros((1, 1, 5)), 6)
    with pytest.raises(ValueError, match="tokens in common; got 1 and 2 tokens"):
        align_vocabulary(["a"], ["b", "c"])
    with pytest.raises(ValueError, match=r"teacher_size needs at least 2.*got 1"):
        align_vocabulary(["a", "b"], ["b"], teacher_size=1)
    with pytest.raises(ValueError, match=r"need 2 entries a row.*got shape \(1, 3\)"):
        align_vocabulary(["a", "b"], ["b"])(np.zeros((1, 3)))


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("tail", [True, False])
def test_stored_rows_are_aligned_as_dense_ones(k: int, tail: bool) -> None:
    """By its definition in loops; with all entries stored, and no tail, as the dense logits."""
    teacher_vocab, student_vocab = list("abcdef"), list("xcbyaezw")
    alignment = align_vocabulary(teacher_vocab, student_vocab)
    rows = 2.0 * np.random.default_rng(20).normal(size=(2, 5, 6))
    stored = TopKLogits.from_logits(rows, k)
    stored = stored if tail else stored._replace(tail=None)
    expected = np.zeros((2, 5, 8))
    for b, i in np.ndindex(2, 5):
        found = dict(zip(stored.indices[b, i].tolist(), stored.values[b, i].tolist(), strict=True))
        total = sum(np.exp(x) for x in found.values())
        mass = float(stored.tail[b, i]) if stored.tail is not None else 0.0
        shared = {t: p for t, p in found.items() if teacher_vocab[t] in student_vocab}
        others = [t for t in range(6) if t not in found and teacher_vocab[t] in student_vocab]
        rest = mass * len(others) / max(6 - k, 1)
        for token in range(8):
            expected[b, i, token] = rest / (8 - len(shared))
        for token, x in shared.items():
            p = np.exp(x) / total * (1.0 - mass)
            expected[b, i, student_vocab.index(teacher_vocab[token])] = p
        if expected[b, i].sum() == 0:
            expected[b, i] = 1.0
    expected /= expected.sum(-1, keepdims=True)
    aligned = alignment(stored)
    assert aligned.values.shape == (2, 5, k)
    dense = aligned.dense(8)
    found_p = np.exp(dense - np.log(np.exp(dense).sum(-1, keepdims=True)))
    np.testing.assert_allclose(found_p, expected, rtol=1e-5, atol=1e-9)
    if k == 6:
        whole = alignment(rows)
        exact = np.exp(whole) / np.exp(whole).sum(-1, keepdims=True)
        np.testing.assert_allclose(found_p, exact, rtol=1e-5, atol=1e-9)


def test_more_entries_than_the_student_has_tokens() -> None:
    alignment = align_vocabulary(list("abcd"), list("ab"))
    with pytest.raises(ValueError, match="need at most 2 entries, the student's vocabulary; got 3"):
        alignment(TopKLogits.from_logits(np.zeros((1, 1, 4)), 3))
    with pytest.raises(ValueError, match=r"ids in 0 … 3, each once a token; got 4 … 4"):
        alignment(TopKLogits(np.zeros((1, 1, 1)), np.full((1, 1, 1), 4)))


def test_a_tensor_is_selected_from_as_an_array(backend: Framework) -> None:
    rows = np.random.default_rng(21).normal(size=(2, 3, 7))
    for dtype in ("float64", "float32"):
        found = TopKLogits.from_logits(backend.array(rows, dtype), 2)
        for one, other in zip(found, TopKLogits.from_logits(rows, 2), strict=True):
            assert isinstance(one, np.ndarray)
            assert_value(one, other, dtype)

"""`TokenCache`: what is read equals what the teacher said, whoever wrote it and when."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcld_core.extensions.nlp import (
    TokenCache,
    TopKLogits,
    align_vocabulary,
    shards,
    token_kd_loss,
)
from tests.frameworks import Framework
from tests.tolerance import assert_value

COUNT, K, VOCABULARY, LONGEST = 11, 3, 9, 6
LENGTHS = np.asarray([3, 1, 6, 2, 5, 4, 6, 1, 2, 3, 4])
LOGITS = np.random.default_rng(0).normal(0.0, 3.0, (COUNT, LONGEST, VOCABULARY))


def teacher(samples: np.ndarray) -> tuple[Any, Any]:
    """Pad on the left, so that the mask is needed."""
    longest = LENGTHS[samples].max()
    logits = np.full((len(samples), longest, VOCABULARY), 777.0)
    mask = np.arange(longest) >= (longest - LENGTHS[samples])[:, None]
    for row, sample in enumerate(samples):
        logits[row, mask[row]] = LOGITS[sample, : LENGTHS[sample]]
    return logits, mask


def write(folder: Path, answers: Any = teacher, **options: Any) -> None:
    settings = {"k": K, "vocabulary": VOCABULARY, "fingerprint": "f", "batch_size": 2}
    TokenCache.write(folder, answers, COUNT, **(settings | {"shard_size": 4} | options))


def never(_: Any) -> Any:
    raise AssertionError("the teacher was asked for what is there")


def said(sample: int) -> TopKLogits:
    """The k best of a sample's tokens, by sorting."""
    return TopKLogits.from_logits(LOGITS[None, sample, : LENGTHS[sample]], K)


def assert_rows(values: Any, indices: Any, tail: Any, sample: int) -> None:
    expected = said(sample)
    p = np.exp(expected.values[0] - expected.values[0].max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True) * (1.0 - expected.tail[0])[:, None]
    np.testing.assert_array_equal(indices, expected.indices[0])
    np.testing.assert_allclose(np.exp(values.astype("float64")), p, rtol=1e-2)
    np.testing.assert_allclose(tail, expected.tail[0], rtol=1e-6)


def test_reads_what_was_said_in_any_order(tmp_path: Path) -> None:
    write(tmp_path)
    cache = TokenCache.open(tmp_path, fingerprint="f", verify=True)
    assert (len(cache), cache.k, cache.vocabulary) == (COUNT, K, VOCABULARY)
    np.testing.assert_array_equal(cache.lengths, LENGTHS)
    samples = [9, 2, 0, 2, 10]
    for copy in (cache, pickle.loads(pickle.dumps(cache))):
        stored = copy[samples]
        assert [x.dtype for x in stored] == ["float16", "int32", "float32"]
        assert stored.values.shape == (5, 6, K)
        for row, sample in enumerate(samples):
            n = LENGTHS[sample]
            assert_rows(*(x[row, :n] for x in stored), sample)
            assert not any(x[row, n:].any() for x in stored)


def test_the_mask_says_where_the_tokens_stand(tmp_path: Path) -> None:
    """On the right, with a gap between, and several samples a row."""
    write(tmp_path)
    cache = TokenCache.open(tmp_path, fingerprint=None)
    mask = np.asarray([[0, 0, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1]])
    stored = cache.batch(np.asarray([5, 3, 0]), mask)
    assert_rows(*(x[0, 2:] for x in stored), 5)
    assert_rows(*(x[1, :2] for x in stored), 3)
    assert_rows(*(x[1, 3:] for x in stored), 0)
    assert not any(x[mask == 0].any() for x in stored)


def test_the_loss_of_a_batch(tmp_path: Path, backend: Framework) -> None:
    write(tmp_path)
    cache = TokenCache.open(tmp_path, fingerprint="f")
    samples = np.asarray([4, 8])
    student = np.random.default_rng(1).normal(size=(2, 5, VOCABULARY)).astype("float32")
    mask = np.arange(5) < LENGTHS[samples, None]
    losses = []
    for stored in (cache[samples], TopKLogits.from_logits(LOGITS[samples, :5], K)):
        arrays = backend.array(student), stored, None
        options = {"attention_mask": backend.array(mask), "temperature": 2.0}
        losses.append(backend.to_numpy(token_kd_loss(*arrays, **options)))
    assert losses[1] > 0.1
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)


def test_a_teacher_of_another_vocabulary_is_aligned_before_it_is_written(tmp_path: Path) -> None:
    alignment = align_vocabulary(list("abcdefghi"), list("zifbxachyegd"))
    aligned = alignment(LOGITS)

    def answers(samples: np.ndarray) -> Any:
        mask = np.arange(LONGEST) < LENGTHS[samples, None]
        return alignment(TopKLogits.from_logits(LOGITS[samples], VOCABULARY)), mask

    write(tmp_path, answers, k=VOCABULARY, vocabulary=12)
    samples = np.asarray([6, 0, 3])
    mask = np.arange(LONGEST) < LENGTHS[samples, None]
    stored = TokenCache.open(tmp_path, fingerprint="f").batch(samples, mask)
    student = np.random.default_rng(2).normal(size=(3, LONGEST, 12))
    found, expected, other = (
        token_kd_loss(student, theirs, attention_mask=mask)
        for theirs in (stored, aligned[samples], aligned[samples + 1])
    )
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    assert abs(other / expected - 1) > 2e-2


@pytest.mark.parametrize(("vocabulary", "size"), [(1 << 16, 4 * K + 4), ((1 << 16) + 1, 6 * K + 4)])
def test_bytes_a_token(tmp_path: Path, vocabulary: int, size: int) -> None:
    stored = TopKLogits(
        np.zeros((1, 100, K)), np.zeros((1, 100, K), int) + np.arange(K) + vocabulary - K
    )

    def answer(_: Any) -> Any:
        return stored._replace(tail=np.full((1, 100), 0.5)), np.ones((1, 100))

    settings = {"k": K, "vocabulary": vocabulary, "fingerprint": "f"}
    TokenCache.write(tmp_path, answer, 1, **settings)
    (path,) = tmp_path.iterdir()
    assert 0 <= path.stat().st_size - 100 * size - 8 < 300
    cache = TokenCache.open(tmp_path, fingerprint="f")
    np.testing.assert_array_equal(cache[[0]].indices, stored.indices)
    np.testing.assert_allclose(np.exp(cache[[0]].values.astype("float64")), 0.5 / K, rtol=1e-2)


def test_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    asked: list[int] = []

    def stopped(samples: np.ndarray) -> Any:
        asked.extend(samples)
        if 6 in samples:
            raise KeyboardInterrupt
        return teacher(samples)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, stopped)
    assert [path.name for path in tmp_path.iterdir()] == ["000000.tokens"]
    with pytest.raises(
        FileNotFoundError, match=r"2 of 3 shards .* missing, 000001\.tokens is the f"
    ):
        TokenCache.open(tmp_path, fingerprint="f")
    asked.clear()
    write(tmp_path, lambda samples: asked.extend(samples) or teacher(samples))
    assert asked == list(range(4, COUNT))
    write(tmp_path, never)
    assert_rows(*(x[0] for x in TokenCache.open(tmp_path, fingerprint="f")[[6]]), 6)


def test_several_writers_share_the_work(tmp_path: Path) -> None:
    """And one that does the same beside them does no harm."""

    def beside(samples: np.ndarray) -> Any:
        write(tmp_path, writer=1, writers=2)
        return teacher(samples)

    write(tmp_path, beside, writer=0, writers=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i:06d}.tokens" for i in range(3)]
    cache = TokenCache.open(tmp_path, fingerprint="f", verify=True)
    for sample in range(COUNT):
        assert_rows(*(x[0] for x in cache[[sample]]), sample)


@pytest.mark.parametrize(
    "options",
    [{"k": 2}, {"vocabulary": 10}, {"fingerprint": "g"}, {"shard_size": 5}],
    ids=str,
)
def test_a_folder_of_other_settings_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    write(tmp_path)
    (name,) = options
    with pytest.raises(ValueError, match=f"TokenCache.write: {name} of .* needs to be "):
        write(tmp_path, never, **options)
    if name == "fingerprint":
        with pytest.raises(ValueError, match=r"TokenCache.open: fingerprint of .* needs to be 'g'"):
            TokenCache.open(tmp_path, fingerprint="g")


def test_each_damaged_byte_is_seen(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "000001.tokens"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises((ValueError, FileNotFoundError)):
            TokenCache.open(tmp_path, fingerprint="f", verify=True)
    for damaged in (whole[:-1], whole[1:], whole[:20], b"", whole + b" ", b"x" * 8 + whole[-16:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"000001.tokens needs to be a complete shard; got"):
            TokenCache.open(tmp_path, fingerprint="f")
    path.write_bytes(whole)
    assert shards.read_settings(path)["first"] == 4
    TokenCache.open(tmp_path, fingerprint="f", verify=True)
    path.write_bytes((tmp_path / "000000.tokens").read_bytes())
    with pytest.raises(ValueError, match=r"needs samples 4 … 7; got 4 from 0 on: the file was ren"):
        TokenCache.open(tmp_path, fingerprint="f")


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="only Linux lists them")
def test_no_file_stays_open(tmp_path: Path) -> None:
    """A process may have a thousand or so, and of a large data set there are more shards."""
    write(tmp_path, shard_size=1)
    cache, before = TokenCache.open(tmp_path, fingerprint="f"), os.listdir("/proc/self/fd")
    stored = cache[range(COUNT)]
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert_rows(*(x[2] for x in stored), 2)


def test_no_tail_and_more_entries_than_are_kept(tmp_path: Path) -> None:
    stored = TopKLogits(np.log([[[0.1, 0.6, 0.3]]]), np.asarray([[[4, 7, 0]]]))
    settings = {"k": 2, "vocabulary": VOCABULARY, "fingerprint": "f"}
    TokenCache.write(tmp_path, lambda _: (stored, np.ones((1, 1))), 1, **settings)
    found = TokenCache.open(tmp_path, fingerprint="f")[[0]]
    assert found.indices.tolist() == [[[7, 0]]]
    np.testing.assert_allclose(np.exp(found.values.astype("float64")), [[[0.6, 0.3]]], rtol=1e-3)
    assert_value(found.tail, np.asarray([[0.1]]), "float32")


BAD: list[tuple[Any, str]] = [
    (lambda s: (LOGITS[s][..., :5], np.ones((len(s), LONGEST))), r"return logits .* 9\); got s"),
    (lambda s: (LOGITS[s], np.ones((len(s), 2))), r"mask \(batch, tokens\); got"),
    (lambda s: (LOGITS[s] * np.nan, np.ones((len(s), LONGEST))), "need numbers, and tails"),
    (lambda s: (TopKLogits(LOGITS[s][..., :2], np.zeros((len(s), LONGEST, 2), int)),
                np.ones((len(s), LONGEST))), "at least k = 3 entries"),
    (lambda s: (TopKLogits(LOGITS[s][..., :3], np.zeros((len(s), LONGEST, 3), int)),
                np.ones((len(s), LONGEST))), "each once a token; got one twice"),
    (lambda s: (TopKLogits(LOGITS[s][..., :3], np.full((len(s), LONGEST, 3), [0, 1, 9])),
                np.ones((len(s), LONGEST))), r"ids in 0 … 8"),
]  # fmt: skip


@pytest.mark.parametrize(("answers", "text"), BAD, ids=[text for _, text in BAD])
def test_wrong_answers_are_refused(tmp_path: Path, answers: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        write(tmp_path, answers)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    for options, text in [
        ({"k": 10}, "k needs an int in 1 … 9; got 10"),
        ({"writer": 2, "writers": 2}, "writer needs an int in 0 … 1; got 2"),
        ({"shard_size": 0}, "shard_size needs an int ≥ 1"),
    ]:
        with pytest.raises(ValueError, match=f"TokenCache.write: {text}"):
            write(tmp_path, never, **options)
    write(tmp_path)
    cache = TokenCache.open(tmp_path, fingerprint="f")
    with pytest.raises(IndexError, match=r"sample indices in 0 … 10; got 11"):
        cache[[11]]
    with pytest.raises(IndexError, match="samples need ints"):
        cache[[0.5]]
    with pytest.raises(
        ValueError, match=r"with the 4 tokens of the samples; got 3 of shape \(1, 3\)"
    ):
        cache.batch([10], np.ones((1, 3)))
    with pytest.raises(FileNotFoundError, match=r"is missing\. Write it first"):
        TokenCache.open(tmp_path / "none", fingerprint="f")

"""TeacherCache: complete, of the right data and teacher, or refused."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcld_core.cache import TeacherCache, fingerprint
from tests.cases import logits
from tests.frameworks import Framework

COUNT, CLASSES = 11, 5
ROWS = logits(np.random.default_rng(1), COUNT, CLASSES).astype("float32")


def batches(size: int = 4, seed: int = 2) -> Iterator[tuple[Any, Any]]:
    """Yield the rows in shuffled order."""
    order = np.random.default_rng(seed).permutation(COUNT)
    for start in range(0, COUNT, size):
        index = order[start : start + size]
        yield index, ROWS[index]


def write(path: Path, pairs: Any = None, **options: Any) -> TeacherCache:
    options = {"count": COUNT, "classes": CLASSES, "fingerprint": "f"} | options
    return TeacherCache.write(path, batches() if pairs is None else pairs, **options)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_come_back_by_sample_index(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "teacher.npy"
    for cache in (write(path, dtype=dtype), TeacherCache.open(path, fingerprint="f")):
        assert (len(cache), cache.classes, cache.logits.dtype) == (COUNT, CLASSES, dtype)
        assert isinstance(cache.logits, np.memmap)
        index = np.array([7, 0, 7])
        np.testing.assert_array_equal(cache[index], ROWS[index])  # exact in float16 too
        np.testing.assert_array_equal(cache[3], ROWS[3])
        np.testing.assert_array_equal(cache[:], ROWS)
        assert type(cache[:]) is np.ndarray
        assert cache[:].flags.writeable
    assert [file.name for file in tmp_path.iterdir()] == ["teacher.npy"]
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), ROWS)
    np.testing.assert_array_equal(np.load(path), ROWS)


def test_tensors_of_any_framework(backend: Framework, tmp_path: Path) -> None:
    pairs = [(backend.array(i), backend.array(x, "float32")) for i, x in batches()]
    cache = write(tmp_path / "t", pairs)
    np.testing.assert_array_equal(cache[backend.array(np.arange(COUNT))], ROWS)
    if "bfloat16" in backend.dtypes:
        pairs = [(backend.array(i), backend.array(x, "bfloat16")) for i, x in batches()]
        np.testing.assert_array_equal(write(tmp_path / "t", pairs)[:], ROWS)


def test_a_failed_write_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "teacher.npy"
    missing = list(batches())[1:]
    with pytest.raises(ValueError, match=r"needs? all 11 samples; got 7, sample \d+ is the first"):
        write(path, missing)
    assert list(tmp_path.iterdir()) == []
    write(path)

    def interrupted() -> Iterator[Any]:
        yield next(batches())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, interrupted(), fingerprint="new")
    assert [file.name for file in tmp_path.iterdir()] == ["teacher.npy"]
    np.testing.assert_array_equal(TeacherCache.open(path, fingerprint="f")[:], ROWS)


def test_a_duplicate_sample_is_no_error(tmp_path: Path) -> None:
    pairs = [*batches(), (np.array([3]), ROWS[3:4])]
    np.testing.assert_array_equal(write(tmp_path / "t", pairs)[:], ROWS)


def test_another_fingerprint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "teacher.npy"
    write(path, fingerprint=fingerprint("a", np.arange(3)))
    assert len(TeacherCache.open(path, fingerprint=None)) == COUNT
    with pytest.raises(ValueError, match="made from other data, in another order, or by another"):
        TeacherCache.open(path, fingerprint="")


@pytest.mark.parametrize("kept", [0, 5, 100, 200, 348, -1])
def test_a_cut_off_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "teacher.npy"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"TeacherCache.open: .*teacher\.npy"):
        TeacherCache.open(path, fingerprint="f")


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "teacher.npy"
    np.save(path, ROWS)
    np.testing.assert_array_equal(TeacherCache.open(path, fingerprint=None)[:], ROWS)
    with pytest.raises(ValueError, match="needs to be 'f'; got ''"):
        TeacherCache.open(path, fingerprint="f")
    with pytest.raises(FileNotFoundError):
        TeacherCache.open(tmp_path / "none.npy", fingerprint="f")


def test_errors(tmp_path: Path) -> None:
    path = tmp_path / "teacher.npy"
    index, rows = np.arange(COUNT), ROWS.copy()
    big, broken = ROWS.copy(), ROWS.copy()
    big[2, 1], broken[4, 0] = 70000.0, np.nan
    cases: list[tuple[str, Any]] = [
        ("dtype needs one of float16, float32; got 'int8'", lambda: write(path, dtype="int8")),
        ("count needs an int ≥ 1; got 0", lambda: write(path, count=0)),
        ("classes needs an int ≥ 1; got -1", lambda: write(path, classes=-1)),
        ("index needs sample indices in 0 … 10; got 11", lambda: write(path, [(index + 1, rows)])),
        ("index needs sample indices in 0 … 10; got -1", lambda: write(path, [(index - 1, rows)])),
        (r"logits \(batch, 5\); got int64 \(11,\) and \(11, 4\)",
         lambda: write(path, [(index, rows[:, :4])])),
        (r"int indices \(batch,\).*got float64", lambda: write(path, [(index / 1, rows)])),
        ("float16 can hold; got 70000.0 for sample 2, class 1. Mend the teacher, or write float32",
         lambda: write(path, [(index, big)], dtype="float16")),
        ("nan for sample 4, class 0. Mend the teacher$", lambda: write(path, [(index, broken)])),
    ]  # fmt: skip
    for text, call in cases:
        with pytest.raises(ValueError, match=f"TeacherCache.write: .*{text}"):
            call()
    assert list(tmp_path.iterdir()) == []
    cache = write(path)
    for wrong in (np.array([0, COUNT]), -1, np.array([True]), 1.0):
        with pytest.raises(IndexError):
            cache[wrong]
    with pytest.raises(TypeError, match="fingerprint: parts need to be texts"):
        fingerprint({"a": 1})


def test_infinite_logits_may_be_stored(tmp_path: Path) -> None:
    """A class of probability 0."""
    rows = ROWS.copy()
    rows[0, 1] = -np.inf
    cache = write(tmp_path / "t", [(np.arange(COUNT), rows)], dtype="float16")
    np.testing.assert_array_equal(cache[:], rows)


def test_pickle_carries_the_path_alone(tmp_path: Path) -> None:
    cache = write(tmp_path / "teacher.npy")
    data = pickle.dumps(cache)
    assert len(data) < ROWS.nbytes + 200
    assert b"logits" not in data
    copy = pickle.loads(data)
    assert isinstance(copy.logits, np.memmap)
    np.testing.assert_array_equal(copy[:], ROWS)


def test_fingerprint_sees_order_dtype_and_bounds() -> None:
    ordered = fingerprint("t", np.array([1, 2, 3]))
    others = [
        fingerprint("t", np.array([2, 1, 3])),
        fingerprint("t", np.array([1, 2, 3], "int32")),
        fingerprint("t", np.array([1, 2]), np.array([3])),
        fingerprint("u", np.array([1, 2, 3])),
        fingerprint(np.array([1, 2, 3]), "t"),
    ]
    assert ordered not in others
    assert len(set(others)) == len(others)


def test_no_rows_are_asked_for(tmp_path: Path) -> None:
    assert write(tmp_path / "teacher.npy")[[]].shape == (0, CLASSES)


def test_a_relative_path_is_pickled_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = pickle.dumps(write(Path("teacher.npy")))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(pickle.loads(text)[:], ROWS)

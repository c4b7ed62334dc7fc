"""TeacherCache beside other writers, on a full disk, and of files that are damaged or forged."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcld_core.cache import TeacherCache, fingerprint
from tests.core.cache.test_cache import CLASSES, COUNT, ROWS, batches, write
from tests.frameworks import Framework


def never() -> Iterator[Any]:
    """A teacher that must not be asked."""
    raise AssertionError("the teacher ran before the arguments were looked at")
    yield


def test_two_writers_of_one_process_keep_their_rows_apart(tmp_path: Path) -> None:
    """The second starts and ends while the first is at work; both have one process id."""
    path = tmp_path / "teacher.npy"

    def interrupted() -> Iterator[Any]:
        first, *rest = batches()
        yield first
        other = write(path, [(np.arange(COUNT), ROWS + 1)], fingerprint="other")
        np.testing.assert_array_equal(other[:], ROWS + 1)
        assert len(list(tmp_path.iterdir())) == 2  # the other's file, and ours in the making
        yield from rest

    np.testing.assert_array_equal(write(path, interrupted())[:], ROWS)
    assert [file.name for file in tmp_path.iterdir()] == ["teacher.npy"]


def test_a_planted_symlink_is_not_followed(tmp_path: Path) -> None:
    """One that lies under the name that a temporary file had in version 0.1."""
    path, victim = tmp_path / "teacher.npy", tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / f".{path.name}.{os.getpid()}.tmp").symlink_to(victim)
    write(path)
    assert victim.read_bytes() == b"precious"
    assert not path.is_symlink()


def test_a_full_disk_is_an_error_before_the_teacher_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path / "teacher.npy", never())
    assert list(tmp_path.iterdir()) == []


def test_the_space_is_taken_before_the_first_row(tmp_path: Path) -> None:
    """A sparse file that is mapped kills the process where the disk is full."""
    count = 20_000

    def rows() -> Iterator[Any]:
        (draft,) = tmp_path.iterdir()
        assert draft.stat().st_blocks * 512 >= 4 * count * CLASSES
        yield np.arange(count), np.zeros((count, CLASSES), "float32")

    assert len(write(tmp_path / "teacher.npy", rows(), count=count)) == count


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_reserves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    calls = []

    def refuse(*_: Any) -> None:
        calls.append(code)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    np.testing.assert_array_equal(write(tmp_path / "teacher.npy")[:], ROWS)
    assert calls


@pytest.mark.parametrize(
    "mark",
    [{1, 2}, np.int64(3), object(), None, float("nan"), {"epoch": np.float32(1)}, b"teacher"],
    ids=lambda mark: type(mark).__name__,
)
def test_a_fingerprint_that_json_cannot_hold_is_refused_at_once(tmp_path: Path, mark: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"TeacherCache.write: fingerprint needs"):
        write(tmp_path / "t", never(), fingerprint=mark)
    assert list(tmp_path.iterdir()) == []


def test_a_fingerprint_that_holds_itself(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match=r"TeacherCache.write: fingerprint needs"):
        write(tmp_path / "t", never(), fingerprint=endless)


def test_a_tuple_equals_the_list_that_it_becomes(tmp_path: Path) -> None:
    mark = ("resnet56", 240, {"layers": (1, 2), 3: None})
    cache = write(tmp_path / "t", fingerprint=mark)
    assert cache.fingerprint == ["resnet56", 240, {"layers": [1, 2], "3": None}]
    for same in (mark, list(mark), cache.fingerprint):
        assert len(TeacherCache.open(tmp_path / "t", fingerprint=same)) == COUNT
    others = (mark[:2], (*mark[:1], 240.0, mark[2]), (mark[0], 240, {}), "resnet56")
    for other in others:
        with pytest.raises(ValueError, match="made from other data"):
            TeacherCache.open(tmp_path / "t", fingerprint=other)
    write(tmp_path / "t", fingerprint=1)
    for other in (True, 1.0, "1"):  # equal to 1 in Python or in print, and another mark
        with pytest.raises(ValueError, match="made from other data"):
            TeacherCache.open(tmp_path / "t", fingerprint=other)


def test_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"TeacherCache.write: path needs a file.*is a folder"):
        write(tmp_path, never())
    with pytest.raises(ValueError, match=r"TeacherCache.open: path needs a .*is a folder"):
        TeacherCache.open(tmp_path, fingerprint="f")
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "t", never())


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (np.zeros((COUNT, CLASSES), "int64"), "int64"),
        (np.zeros((COUNT, CLASSES), bool), "bool"),
        (np.zeros((COUNT, CLASSES), "complex64"), "complex64"),
        (np.zeros((COUNT, CLASSES), [("a", "f4")]), r"\[\('a', '<f4'\)\]"),
        (np.zeros((COUNT, CLASSES), object), "object"),
    ],
    ids=["int", "bool", "complex", "structured", "object"],
)
def test_logits_of_another_dtype_are_refused(tmp_path: Path, rows: Any, found: str) -> None:
    with pytest.raises(TypeError, match=f"write: logits need a float dtype; got {found}"):
        write(tmp_path / "t", [(np.arange(COUNT), rows)])
    assert list(tmp_path.iterdir()) == []


def forged(rows: np.ndarray, shape: Any = None, end: bytes | None = None) -> bytes:
    """Return the bytes of an array with the mark of completeness behind it."""
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=True)
    settings = {"shape": rows.shape if shape is None else shape, "fingerprint": "f"}
    return file.getvalue() + (json.dumps(settings).encode() if end is None else end) + b"MCLDEND1"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("logits.npy", b"")
    return file.getvalue()


ZEROS = np.zeros((COUNT, CLASSES), "float32")
DEEP = b'{"shape": [11, 5], "fingerprint": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
DAMAGED = {
    "int64": forged(ZEROS.astype("int64")),
    "float64": forged(ZEROS.astype("float64")),
    "other byte order": forged(ZEROS.astype(ZEROS.dtype.newbyteorder())),
    "complex": forged(ZEROS.astype("complex64")),
    "structured": forged(np.zeros((COUNT, CLASSES), [("a", "f4")])),
    "pickled": forged(np.full((COUNT, CLASSES), None)),
    "columns first": forged(np.asfortranarray(ZEROS)),
    "one axis": forged(ZEROS[:, 0]),
    "three axes": forged(ZEROS[:, :, None]),
    "no rows": forged(ZEROS[:0]),
    "settings of text": forged(ZEROS, end=b'"shape"'),
    "settings of a list": forged(ZEROS, end=b"[1, 2]"),
    "no settings": forged(ZEROS, end=b""),
    "no shape": forged(ZEROS, end=b'{"fingerprint": "f"}'),
    "no fingerprint": forged(ZEROS, end=b'{"shape": [11, 5]}'),
    "shape of a number": forged(ZEROS, shape=11),
    "other shape": forged(ZEROS, shape=[11, 6]),
    "not UTF-8": forged(ZEROS, end=b'"\xff"'),
    "deep settings": forged(ZEROS, end=DEEP),
    "deep header": b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000 + bytes(400),
    "no header": b"\x93NUMPY\x01\x00\x04\x00{[}\n" + bytes(400),
    "version 9": b"\x93NUMPY\x09\x00" + bytes(400),
    "a zip archive": zipped(),
    "half a zip archive": zipped()[:30] + bytes(30),
    "a larger header": forged(ZEROS).replace(b"(11, 5)", b"(99, 5)"),
    "a vast header": forged(ZEROS).replace(b"(11, 5), }" + b" " * 9, b"(1234567890123, 5)}"),
    "a negative header": forged(ZEROS).replace(b"(11, 5)", b"(-1, 5)"),
    "empty": b"",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_a_value_error_that_names_it(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "teacher.npy"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(ValueError, match=r"needs a complete teacher cache; got .*teacher\.npy"):
        TeacherCache.open(path, fingerprint=None)


def test_each_damaged_byte_of_header_and_settings_is_seen(tmp_path: Path) -> None:
    """Or does no harm: then the rows are the old ones."""
    path = tmp_path / "teacher.npy"
    cache = write(path)
    whole = path.read_bytes()
    start, end = cache.logits.offset, cache.logits.offset + cache.logits.nbytes
    del cache
    for place in [*range(start), *range(end, len(whole))]:
        for value in (whole[place] ^ 1, 255):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            with suppress(ValueError):
                np.testing.assert_array_equal(TeacherCache.open(path, fingerprint="f")[:], ROWS)


def test_a_fingerprint_of_parts_that_differ_in_length() -> None:
    assert fingerprint((1, 2)) == fingerprint([1, 2])
    with pytest.raises(TypeError, match="fingerprint: parts need to be texts, numbers or arrays"):
        fingerprint([1, [2, 3]])


def test_a_fingerprint_of_any_float_dtype(backend: Framework) -> None:
    """JAX's and TensorFlow's bfloat16 is a dtype beside NumPy's own."""
    for dtype in backend.dtypes:
        marks = [fingerprint(backend.array([1.0, x], dtype)) for x in (2.0, 2.0, 3.0)]
        assert marks[0] == marks[1] != marks[2]


def test_a_file_without_a_fingerprint_is_other_data(tmp_path: Path) -> None:
    """Version 0.1 stored a None."""
    path = tmp_path / "teacher.npy"
    path.write_bytes(forged(ZEROS, end=b'{"shape": [11, 5], "fingerprint": null}'))
    assert len(TeacherCache.open(path, fingerprint=None)) == COUNT
    with pytest.raises(ValueError, match="needs to be 'f'; got None: it was made from other data"):
        TeacherCache.open(path, fingerprint="f")

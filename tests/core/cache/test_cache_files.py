"""TeacherCache beside other writers, and of files of another kind."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcld_core.cache import TeacherCache, fingerprint
from tests.core.cache.test_cache import CLASSES, COUNT, ROWS, batches, write
from tests.frameworks import Framework


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


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("logits.npy", b"")
    return file.getvalue()


def saved(rows: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=True)
    return file.getvalue()


ZEROS = np.zeros((COUNT, CLASSES), "float32")
OTHERS = {
    "int64": saved(ZEROS.astype("int64")),
    "float64": saved(ZEROS.astype("float64")),
    "structured": saved(np.zeros((COUNT, CLASSES), [("a", "f4")])),
    "pickled": saved(np.full((COUNT, CLASSES), None)),
    "one axis": saved(ZEROS[:, 0]),
    "a zip archive": zipped(),
    "a larger header": saved(ZEROS).replace(b"(11, 5)", b"(99, 5)"),
    "a header without an end": saved(ZEROS).replace(b"(11, 5)", b"(11, 5 "),
    "empty": b"",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_of_another_kind_is_a_value_error_that_names_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "teacher.npy"
    path.write_bytes(OTHERS[kind])
    with pytest.raises(ValueError, match=r"TeacherCache.open: path needs .*; got .*teacher\.npy"):
        TeacherCache.open(path, fingerprint=None)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path needs a file.*is a folder"):
        write(tmp_path)
    with pytest.raises(IsADirectoryError):
        TeacherCache.open(tmp_path, fingerprint="f")
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "t")


def test_a_fingerprint_is_a_text(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="fingerprint needs a text; got dict"):
        write(tmp_path / "t", fingerprint={"epoch": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_fingerprint_of_parts_that_differ_in_length() -> None:
    assert fingerprint((1, 2)) == fingerprint([1, 2])
    with pytest.raises(TypeError, match="fingerprint: parts need to be texts, numbers or arrays"):
        fingerprint([1, [2, 3]])


def test_a_fingerprint_of_any_float_dtype(backend: Framework) -> None:
    """JAX's and TensorFlow's bfloat16 is a dtype beside NumPy's own."""
    for dtype in backend.dtypes:
        marks = [fingerprint(backend.array([1.0, x], dtype)) for x in (2.0, 2.0, 3.0)]
        assert marks[0] == marks[1] != marks[2]

"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest
from recipes import files


def test_a_crash_before_the_rename_leaves_the_previous_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "file.txt"
    files.write_text(path, "old")

    def crash(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(OSError, match=r"cannot write .*file.txt: Input/output error; the previous"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_an_error_while_writing_leaves_the_previous_version(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    files.write_text(path, "old")

    def half(file: IO[bytes]) -> None:
        file.write(b"half")
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        files.write_atomically(path, half)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]

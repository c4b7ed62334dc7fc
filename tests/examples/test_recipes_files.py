"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from recipes import files, npz, torch_checkpoints


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


class FullDisk(io.BytesIO):
    """A file on a disk with 100 bytes left."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: files.write_text(path, 200 * "x"),
        lambda path: torch_checkpoints.save(path, {"weight": torch.zeros(100_000)}),
        lambda path: npz.save(path, {"weight": np.zeros(100_000)}, {"epoch": 3}),
    ],
    ids=["text", "torch", "npz"],
)
def test_a_full_disk_is_named_and_leaves_the_previous_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(files, "open", lambda *_: FullDisk(), raising=False)
    with pytest.raises(OSError, match=r"cannot write .*file: No space left .*Free some space") as e:
        write(path)
    assert e.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

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
from recipes import files, folder
from recipes.checkpoints import load_arrays, load_torch
from recipes.torch import save_torch


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


def full(descriptor: int, mode: str) -> FullDisk:
    os.close(descriptor)
    return FullDisk()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: files.write_text(path, 200 * "x"),
        lambda path: save_torch(path, {"weight": torch.zeros(100_000)}),
        lambda path: files.save_arrays(path, {"weight": np.zeros(100_000)}, {"epoch": 3}),
    ],
    ids=["text", "torch", "npz"],
)
def test_a_full_disk_is_named_and_leaves_the_previous_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(files, "open", full, raising=False)
    with pytest.raises(OSError, match=r"cannot write .*file: No space left .*Free some space") as e:
        write(path)
    assert e.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_two_writers_of_one_process_do_not_share_a_file(tmp_path: Path) -> None:
    """Threads have one process id, and so have containers that share a disk."""
    path = tmp_path / "file.bin"
    seen: list[list[str]] = []

    def outer(file: IO[bytes]) -> None:
        file.write(b"outer")
        files.write_atomically(path, lambda inner: inner.write(b"inner"))
        seen.append(sorted(entry.name for entry in tmp_path.iterdir()))

    files.write_atomically(path, outer)
    assert path.read_bytes() == b"outer"
    assert len(seen[0]) == 2  # the inner one's file, and the outer one's temporary file


def test_files_have_the_permissions_of_others(tmp_path: Path) -> None:
    files.write_text(tmp_path / "ours", "text")
    (tmp_path / "plain").write_text("text")
    modes = [(tmp_path / name).stat().st_mode for name in ("ours", "plain")]
    assert modes[0] == modes[1]


def flip(path: Path, pattern: bytes) -> None:
    """Damage seven bytes inside the file, where its weights are."""
    content = bytearray(path.read_bytes())
    at = content.index(pattern) + 40
    for place in range(at, at + 7):
        content[place] ^= 0x70
    path.write_bytes(content)


def test_a_weight_that_was_damaged_inside_is_an_error(tmp_path: Path) -> None:
    """PyTorch loads such a file in silence: it does not look at the archive's CRC."""
    weight = np.arange(100, dtype=np.float32)
    path = tmp_path / "model.pt"
    save_torch(path, {"weight": torch.from_numpy(weight)})
    flip(path, weight.tobytes())
    loaded = torch.load(path, weights_only=True)["weight"]
    assert not torch.equal(loaded, torch.from_numpy(weight))
    with pytest.raises(files.DataError, match=r"model.pt is not a readable checkpoint .*CRC"):
        load_torch(path)
    arrays = tmp_path / "model.npz"
    files.save_arrays(arrays, {"weight": weight}, {})
    flip(arrays, weight.tobytes())
    with pytest.raises(files.DataError, match=r"model.npz is not a readable checkpoint .*CRC"):
        load_arrays(arrays)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"<html>404</html>", "is not a readable checkpoint"),
        (b"", "is not a readable checkpoint"),
    ],
)
@pytest.mark.parametrize("load", [load_torch, load_arrays])
def test_what_is_no_checkpoint_is_one_line(
    tmp_path: Path, content: bytes | None, message: str, load: Callable[[Path], Any]
) -> None:
    path = tmp_path / "model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(files.DataError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert "weights_only=False" not in str(caught.value)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": Path("a/b")}, path)
    with pytest.raises(files.DataError, match="more than tensors and plain values") as caught:
        load_torch(path)
    assert "weights_only" not in str(caught.value)
    torch.save(torch.zeros(3), path)
    with pytest.raises(files.DataError, match="it holds a Tensor"):
        load_torch(path)


def test_a_disk_without_space_is_named_before_the_run(tmp_path: Path) -> None:
    folder.check_space(tmp_path / "new" / "run", 1000)
    with pytest.raises(files.DataError, match=r"MB free, the checkpoints need 1,000,000,000,000"):
        folder.check_space(tmp_path / "new" / "run", 10**18)

"""`mcld_core.files`: the old version or the new one, and no leftovers."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcld_core import files
from mcld_core.files import replacement


def write(path: Path, content: bytes) -> None:
    with replacement(path) as file:
        file.write(content)


def test_the_new_version_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacement(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_version(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacement(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_name_that_is_taken_is_neither_followed_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker who knew the random part could plant a link there."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "known")
    victim, link = tmp_path / "victim", tmp_path / ".file.known.tmp"
    victim.write_bytes(b"precious")
    link.symlink_to(victim)
    with pytest.raises(FileExistsError):
        write(tmp_path / "file", b"new")
    assert victim.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == [".file.known.tmp", "victim"]


WRITER = """
import sys
from mcld_core.files import replacement
with replacement(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="needs locks of POSIX")
def test_a_killed_writer_s_draft_goes_and_a_living_one_s_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "file [1]")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as killed, subprocess.Popen(command, **pipes) as lives:
        assert killed.stdout.readline() == lives.stdout.readline() == "ready\n"
        assert len(os.listdir(tmp_path)) == 2
        write(tmp_path / "file [1]", b"new")
        assert len(os.listdir(tmp_path)) == 3
        killed.kill()
        killed.wait(30)
        write(tmp_path / "file [1]", b"newer")
        assert len(os.listdir(tmp_path)) == 2
        lives.communicate("", 30)
    assert os.listdir(tmp_path) == ["file [1]"]
    assert (tmp_path / "file [1]").read_bytes() == b"half"


@pytest.mark.skipif(os.name == "nt", reason="needs locks of POSIX")
def test_a_draft_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, seen = files.fcntl.flock, []

    def late(file: Any, how: int) -> None:
        if not seen:
            Path(file.name).unlink()
        seen.append(how)
        flock(file, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    write(tmp_path / "file", b"new")
    assert len(seen) == 2
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "real").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(store / "real")
    write(link, b"new")
    assert link.is_symlink()
    assert (store / "real").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["link", "store"]
    assert os.listdir(store) == ["real"]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write(tmp_path / "file", b"new")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_the_longest_name_and_one_of_many_bytes(tmp_path: Path) -> None:
    for name in ("x" * 255, "例" * 85):
        write(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"


def test_a_folder_and_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path needs a file to write; got .*, which is a folder"):
        write(tmp_path, b"")
    with pytest.raises(FileNotFoundError, match=r"there is no such folder: .*none'$"):
        write(tmp_path / "none" / "file", b"")


def test_a_disk_that_is_full_at_the_last_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == []

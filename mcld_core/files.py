"""Files that are the old version or the whole new one, whoever else writes beside."""

from __future__ import annotations

import errno
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def replacement(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of ``path`` when the block ends without an error.

    The file is made in the same folder under a name of its own, which must not exist: writers with
    one process id (threads, containers that share a disk) never share a file, and a symbolic link
    is not followed there. Where ``path`` itself is a link, the file that it points to is replaced.
    After an error or an interrupt the new file is removed and the old one is untouched; what a
    killed writer left is removed by the next one (not on Windows). Its folder must exist; a path
    that is a folder itself is a ValueError.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "note")
        >>> with replacement(path) as file:
        ...     _ = file.write(b"done")
        ...     os.path.exists(path)
        False
        >>> os.listdir(os.path.dirname(path))
        ['note']
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise ValueError(f"path needs a file to write; got {path}, which is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))
    _remove_orphans(path)
    draft, file = _open_draft(path)
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:  # Windows renames no open file
            file.close()
        os.replace(draft, path)
        file.close()
    except BaseException:
        with suppress(OSError):  # a full disk again: what is in the buffer is not written
            file.close()
        draft.unlink(missing_ok=True)
        raise


def _open_draft(path: Path) -> tuple[Path, BinaryIO]:
    """Make a draft that is locked as long as its writer lives."""
    while True:
        draft = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")
        file = open(draft, "x+b")  # noqa: SIM115  (the caller closes it)
        if fcntl is None:  # Windows
            return draft, file
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return draft, file
        file.close()  # another writer took it for an orphan before it was locked


def _remove_orphans(path: Path) -> None:
    """Remove the drafts of the path that no living writer holds."""
    pattern = glob.escape(f".{path.name[:40]}.") + "[0-9a-f]" * 16 + ".tmp"
    for draft in path.parent.glob(pattern) if fcntl else ():
        if draft.is_symlink() or not draft.is_file():
            continue
        with suppress(OSError), open(draft, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.unlink()

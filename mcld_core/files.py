"""Files that are the old version or the whole new one, whoever else writes beside."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacement(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of ``path`` when the block ends without an error.

    The file is made in the same folder under a name of its own, which must not exist: writers with
    one process id (threads, containers that share a disk) never share a file, and a symbolic link
    is not followed there. Where ``path`` itself is a link, the file that it points to is replaced.
    After an error or an interrupt the new file is removed and the old one is untouched; a writer
    that is killed leaves its hidden draft. The folder must exist; a path that is a folder itself is
    a ValueError.

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
    draft = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")
    file = open(draft, "x+b")  # noqa: SIM115  (closed before it is renamed or removed)
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):  # a full disk again: what is in the buffer is not written
            file.close()
        draft.unlink(missing_ok=True)
        raise

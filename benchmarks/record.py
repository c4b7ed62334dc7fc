"""Files of results: written to a temporary name and renamed, a run a line."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary name beside a file; what was written there takes its place, or nothing.

    Raises:
        ValueError: something that is not a file is there (a device would be replaced, too).
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a file: name another one to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    yield new
    os.replace(new, path)


def read_json(path: Path) -> Any:
    """Return what a file holds; None where there is none."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def write_json(path: Path, content: Any) -> None:
    """Write a file, indented."""
    with replaced(path) as new:
        new.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file or a folder, which a killed process gives back; yield if it is held.

    Args:
        path: it exists.
        wait: for another process that holds the lock; without it, yield False.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


class Record:
    """A JSON file of runs by name, a line a run; several processes may add to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def runs(self) -> dict[str, Any]:
        """Return what is there."""
        return read_json(self.path) or {}

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Add a run, or put it in place of the one of this name."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.parent):
            runs = self.runs() | {name: found}
            lines = [f"{json.dumps(key)}: {json.dumps(runs[key])}" for key in sorted(runs)]
            with replaced(self.path) as new:
                new.write_text("{\n" + ",\n".join(lines) + "\n}\n")

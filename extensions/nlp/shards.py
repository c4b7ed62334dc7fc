"""Files with the stored teacher rows of some samples: one shard of a `TokenCache`."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mcld_core.files import replacement

_END = b"MCLDTOK1"
"""The last bytes of a complete shard, after the settings as JSON and their length."""


class Rows(NamedTuple):
    """The rows of samples, one token after the other."""

    values: np.ndarray[Any, Any]
    """(tokens, k) float16 log-probabilities, the largest first."""
    indices: np.ndarray[Any, Any]
    """(tokens, k) uint16 or int32 ids."""
    tail: np.ndarray[Any, Any]
    """(tokens,) float32, the probability of all other tokens together."""
    ends: np.ndarray[Any, Any]
    """(samples,) int64, where the tokens of each sample end."""


def write_shard(path: Path, rows: Rows, settings: dict[str, Any]) -> None:
    """Write a shard; it appears under its name when it is complete."""
    settings = settings | {"tokens": len(rows.tail), "samples": len(rows.ends)}
    with replacement(path) as file:
        for name in _layout(settings):
            file.write(np.ascontiguousarray(getattr(rows, name)).tobytes())
        text = json.dumps(settings | {"crc32": _checksum(rows, settings)}).encode()
        file.write(text + len(text).to_bytes(8, "little") + _END)


def read_settings(path: Path) -> dict[str, Any]:
    """Return a shard's settings; raise ValueError where it is cut off, damaged, of another kind."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            file.seek(max(0, size - 16))
            ending = file.read()
            if len(ending) < 16 or ending[8:] != _END:
                raise ValueError("no mark of completeness")
            length = int.from_bytes(ending[:8], "little")
            if length > size - 16:
                raise ValueError("settings that are longer than the file")
            file.seek(size - 16 - length)
            settings: dict[str, Any] = json.loads(file.read(length))
        needed = sum(entry.itemsize * count for entry, count in _layout(settings).values())
        if needed != size - 16 - length:
            raise ValueError(f"{size - 16 - length} bytes of rows where {needed} are needed")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"TokenCache: {path} needs to be a complete shard; got {error}. Remove the file and "
            "call TokenCache.write again: it writes what is missing"
        ) from error
    return settings


def read(
    path: Path,
    settings: dict[str, Any],
    names: Sequence[str],
    first: int = 0,
    last: int | None = None,
) -> list[np.ndarray[Any, Any]]:
    """Return entries of some arrays of a shard, by their names in `Rows`.

    The file is open no longer than that: a memory map would keep it open, and a data set has more
    shards than a process may have files.
    """
    found, start = {}, 0
    with open(path, "rb") as file:
        for name, (entry, count) in _layout(settings).items():
            if name in names:
                file.seek(start + first * entry.itemsize)
                size = ((count if last is None else last) - first) * entry.itemsize
                found[name] = np.frombuffer(file.read(size), entry)
            start += count * entry.itemsize
    return [found[name] for name in names]


def check_shard(path: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError where the rows are not those that were written."""
    written = {name: value for name, value in settings.items() if name != "crc32"}
    checksum = _checksum(Rows(*read(path, settings, Rows._fields)), written)
    if checksum != settings.get("crc32"):
        raise ValueError(
            f"TokenCache: {path} needs the checksum {settings.get('crc32')}; got {checksum}: the "
            "file was damaged. Remove it and call TokenCache.write again"
        )


def index_dtype(vocabulary: int) -> str:
    """Return how ids are stored: in 2 bytes where the vocabulary allows it, else in 4."""
    return "<u2" if vocabulary <= 1 << 16 else "<i4"


def _checksum(rows: Rows, settings: dict[str, Any]) -> int:
    found = zlib.crc32(json.dumps(settings, sort_keys=True).encode())
    for array in rows:
        found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
    return found


def _layout(settings: dict[str, Any]) -> dict[str, tuple[np.dtype[Any], int]]:
    """Return the dtype of an entry of each array and their number, in the order of the file."""
    tokens, samples, k = (int(settings[name]) for name in ("tokens", "samples", "k"))
    if min(tokens, samples, k) < 0:
        raise ValueError("a negative size")
    return {  # the wide ones first: each array is aligned
        "ends": (np.dtype("<i8"), samples),
        "tail": (np.dtype("<f4"), tokens),
        "indices": (np.dtype((index_dtype(settings["vocabulary"]), (k,))), tokens),
        "values": (np.dtype(("<f2", (k,))), tokens),
    }

"""Checkpoints in JAX: one NumPy archive of named arrays, atomic to write, safe to read."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .files import write_atomically
from .readers import DataError


def save(path: Path, state: Any, notes: dict[str, Any]) -> None:
    """Write a pytree of arrays, named by their place in it, and notes that JSON can hold."""
    leaves = jax.tree.leaves_with_path(state)
    arrays = {jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in leaves}
    write_atomically(path, lambda file: np.savez(file, notes=np.array(json.dumps(notes)), **arrays))


def notes(path: Path) -> dict[str, Any]:
    """Read the notes of a checkpoint.

    Raises:
        DataError: no file, or a damaged one.
    """
    return json.loads(str(_read(path)["notes"]))  # type: ignore[no-any-return]


def load(path: Path, like: Any) -> Any:
    """Read a pytree of the structure, shapes, dtypes and placement of ``like``.

    Raises:
        DataError: no file, a damaged one, or one of another structure.
    """
    arrays = _read(path)

    def place(where: Any, leaf: Any) -> jax.Array:
        found = arrays.get(jax.tree_util.keystr(where))
        if found is None or found.shape != leaf.shape or found.dtype != leaf.dtype:
            what = "nothing" if found is None else f"{found.dtype}{found.shape}"
            raise DataError(
                f"{path} does not fit: {jax.tree_util.keystr(where)} is {leaf.dtype}{leaf.shape} "
                f"here and {what} there"
            )
        return jax.device_put(found, leaf.sharding)

    return jax.tree.map_with_path(place, like)


def _read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays; no code in the file can run (``allow_pickle=False``)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is no readable checkpoint ({error}); delete it or pass another file"
        ) from error

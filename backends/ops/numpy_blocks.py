"""Rows in NumPy: by block, the value only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mcld_core.backends.ops.protocol import RowFunction

Array = Any


def map_rows(
    function: RowFunction,
    prepare: Callable[[Any], Any],
    rows: tuple[Array, ...],
    shared: Any,
    block_rows: int | None,
) -> tuple[Array, ...]:
    """Evaluate a function of rows: see `mcld_core.backends.ops.protocol.Backend.map_rows`."""
    shared, count = prepare(shared), rows[0].shape[0]
    if block_rows is None or count <= block_rows:
        return function(rows, shared, False)
    blocks = [
        function(tuple(x[start : start + block_rows] for x in rows), shared, False)
        for start in range(0, count, block_rows)
    ]
    return tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))

"""Arguments that the extensions check alike: shapes, weights, and ids that are only compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mcld_core.arguments import Arguments
from mcld_core.typing import Array, Int


def fits(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Return whether two shapes may be one; a size that TensorFlow does not know fits any."""
    return len(ours) == len(theirs) and all(
        a is None or b is None or a == b for a, b in zip(ours, theirs, strict=True)
    )


def check_weight(function: str, argument: str, weight: Any) -> None:
    """Raise ValueError for a Python number below 0 (arrays are not looked into)."""
    if isinstance(weight, (int, float)) and not weight >= 0:
        raise ValueError(f"{function}: {argument} needs a number ≥ 0; got {weight!r}")


def row_ids(
    arguments: Arguments, name: str, ids: Any, logits: Array, single: bool = False
) -> Int[Array, " batch"]:
    """Return ids, labels or places, one a row, signed: int64 where they come so, else int32.

    ``single``: one number for all rows will do.

    Raises:
        ValueError, TypeError: another shape or dtype, or numbers beyond 32 bits where the
            framework has no more.
    """
    ops = arguments.ops
    found = arguments.array(name, ids, logits)
    if not single or len(found.shape):
        arguments.vector(name, found, logits.shape[0])
    arguments.device(name, found, logits)
    dtype = ops.dtype(found)
    if not dtype.startswith(("int", "uint")):
        raise TypeError(f"{arguments.function}: {name} needs an integer dtype; got {dtype}")
    values = ops.host_values(found) if ops.is_tensor(ids) else np.asarray(ids)
    found = ops.astype(found, "int64" if dtype in ("int64", "uint32", "uint64") else "int32")
    if values is not None and values.size:
        limits, lowest, highest = np.iinfo(ops.dtype(found)), values.min(), values.max()
        if lowest < limits.min or highest > limits.max:
            raise ValueError(
                f"{arguments.function}: {name} needs numbers of {limits.bits} bits here; got "
                f"{lowest} … {highest}. Number them anew, or have JAX use 64 bits "
                "(jax_enable_x64)"
            )
    return found

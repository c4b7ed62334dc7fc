"""The way of every baseline: rows that are checked, a function of values, a reduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcld_core.arguments import Arguments, Batch, as_number, reduce_rows
from mcld_core.formulas.objective import Block, by_block, rows_without_keys
from mcld_core.typing import Array, Reduction, Scalar


def reduced(
    arguments: Arguments,
    batch: Batch,
    values_of: Callable[..., Array],
    numbers: tuple[Scalar, ...],
    reduction: Reduction,
    *,
    in_blocks: bool = True,
) -> Any:
    """Evaluate ``values_of(student, teacher, labels, *numbers)``, a value a row, and reduce it.

    ``in_blocks=False`` for values that depend on other rows too. One class gives 0.
    """
    arguments.reduction(reduction)
    ops, like, dtype = arguments.ops, batch.student, batch.dtype

    def values(block: Block, numbers: tuple[Scalar, ...]) -> tuple[Array]:
        if block.student.shape[1] == 1:
            return (0.0 * block.student[:, 0],)
        return (values_of(block.student, block.teacher, block.labels, *numbers),)

    numbers = tuple(as_number(ops, n, like, dtype) for n in numbers)
    is_trained = any(map(ops.is_trained, numbers))
    size = rows_without_keys(like.shape[1]) if in_blocks and not is_trained else None
    block = Block(like, batch.teacher, batch.labels, kept=batch.kept)
    (total,) = by_block(ops, values, lambda numbers: numbers, block, dtype, numbers, size)
    if batch.kept is not None:  # a row that does not count may have an infinite divergence
        total = ops.where(batch.kept, total, 0.0)
    return reduce_rows(ops, total, batch.weight, reduction)

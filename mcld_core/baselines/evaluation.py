"""The way of every baseline: rows that are checked, a function of values, a reduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcld_core.arguments import Arguments, Batch, as_number, keep_rows, reduce_rows
from mcld_core.formulas.divergence import raised
from mcld_core.formulas.objective import rows_without_keys
from mcld_core.formulas.stored import StoredRows, of_parts, parts_of
from mcld_core.typing import Array, Reduction, Scalar


def reduced(
    arguments: Arguments,
    batch: Batch,
    values_of: Callable[..., Array],
    numbers: tuple[Scalar, ...],
    reduction: Reduction,
    *,
    by_block: bool = True,
) -> Any:
    """Evaluate ``values_of(student, teacher, labels, *numbers)``, a value a row, and reduce it.

    ``by_block=False`` for values that depend on other rows too. One class gives 0.
    """
    arguments.reduction(reduction)
    ops, like, dtype = arguments.ops, batch.student, batch.dtype
    of_teacher = parts_of(batch.teacher)
    beside = {"labels": batch.labels, "kept": batch.kept}
    beside = {name: x for name, x in beside.items() if x is not None}

    def values(rows: tuple[Array, ...], numbers: tuple[Scalar, ...]) -> tuple[Array]:
        end = 1 + len(of_teacher)
        block = dict(zip(beside, rows[end:], strict=True))
        student = keep_rows(ops, ops.astype(rows[0], dtype), block.get("kept"))
        student = raised(ops, student)
        teacher = of_parts(batch.teacher, rows[1:end])
        if not isinstance(teacher, StoredRows):
            teacher = keep_rows(ops, ops.astype(teacher, dtype), block.get("kept"))
        if student.shape[1] == 1:
            return (0.0 * student[:, 0],)
        return (values_of(student, teacher, block.get("labels"), *numbers),)

    numbers = tuple(as_number(ops, n, like, dtype) for n in numbers)
    trained = any(ops.is_trained(n) for n in numbers)
    block_rows = rows_without_keys(like.shape[1]) if by_block and not trained else None
    rows = (batch.student, *of_teacher, *beside.values())
    (total,) = ops.by_block(values, lambda numbers: numbers, rows, numbers, block_rows)
    if batch.kept is not None:  # a row that does not count may have an infinite divergence
        total = ops.where(batch.kept, total, 0.0)
    return reduce_rows(ops, total, batch.weight, reduction)

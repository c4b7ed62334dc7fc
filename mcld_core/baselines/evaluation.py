"""The way of every baseline: rows that are checked, a function of values, a reduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcld_core.arguments import Arguments, Batch, is_number, keep_rows, reduce_rows
from mcld_core.backends import Backend
from mcld_core.formulas.divergence import raised
from mcld_core.losses import rows_of_a_block
from mcld_core.typing import Array, Int, Reduction, Scalar


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
    ops, like, dtype = arguments.ops, batch.student, batch.dtype
    given = {
        "student": batch.student,
        "teacher": batch.teacher,
        "labels": batch.labels,
        "kept": batch.kept,
    }
    names = [name for name, x in given.items() if x is not None]

    def values(rows: tuple[Array, ...], numbers: tuple[Scalar, ...]) -> tuple[Array]:
        block = dict(zip(names, rows, strict=True))
        student, teacher = (
            keep_rows(ops, ops.astype(block[side], dtype), block.get("kept"))
            for side in ("student", "teacher")
        )
        student = raised(ops, student)
        if student.shape[1] == 1:
            return (0.0 * student[:, 0],)
        return (values_of(student, teacher, block.get("labels"), *numbers),)

    numbers = tuple(n if is_number(n) else ops.astype(ops.asarray(n, like), dtype) for n in numbers)
    trained = any(ops.is_trained(n) for n in numbers)
    block_rows = None if trained or not by_block else rows_of_a_block(ops, "auto", 1, like.shape[1])
    rows = tuple(x for x in given.values() if x is not None)
    (total,) = ops.by_block(values, lambda numbers: numbers, rows, numbers, block_rows)
    return reduce_rows(ops, total, batch, reduction)


def target_of(ops: Backend, labels: Array) -> Int[Array, " rows"]:
    """Return int labels as they are, and the arg max of soft ones."""
    return labels if labels.ndim == 1 else ops.argmax(labels, 1)

"""The way of every baseline: rows that are checked, a function of values, a reduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcld_core.arguments import Arguments, as_number, reduce_rows, target_class
from mcld_core.formulas.objective import Block, by_block
from mcld_core.typing import Array, Reduction, Scalar


def evaluate(
    function: str,
    rows: tuple[Any, Any, Any, Any, Any],
    values_of: Callable[..., Array],
    reduction: Reduction,
    *,
    in_blocks: bool = True,
    **numbers: Scalar,
) -> Any:
    """Check the rows, evaluate ``values_of(ops, block, **numbers)``, a value a row, and reduce it.

    ``rows`` are student logits, teacher logits, labels, sample weight and ``where``. The numbers
    are ≥ 0, temperatures above 0; ``ignore_index`` among them says that there are labels, of which
    the block has the target class. ``in_blocks=False`` for values that depend on other rows too.
    One class gives 0.
    """
    arguments, ignored = Arguments(function, *rows), None
    arguments.reduction(reduction)
    if "ignore_index" in numbers:
        ignored = arguments.integer("ignore_index", numbers.pop("ignore_index"))
    for name, x in numbers.items():
        limit = "above" if name.endswith("temperature") else "minimum"
        arguments.number(name, x, **{limit: 0.0})
    ops, batch = arguments.ops, arguments.batch(rows, ignored)
    like, dtype = batch.student, batch.dtype

    def values(block: Block, numbers: dict[str, Scalar]) -> tuple[Array]:
        if block.student.shape[1] == 1:
            return (0.0 * block.student[:, 0],)
        return (values_of(ops, block, **numbers),)

    numbers = {name: as_number(ops, x, like, dtype) for name, x in numbers.items()}
    is_trained = any(map(ops.is_trained, numbers.values()))
    # a block of about 4 MB: nothing is multiplied, so it may have few rows
    size = max(2**20 // like.shape[1], 64) if in_blocks and not is_trained else None
    target = None if batch.labels is None else target_class(ops, batch.labels)
    block = Block(like, batch.teacher, target, kept=batch.kept)
    (total,) = by_block(ops, values, lambda numbers: numbers, block, dtype, numbers, size)
    return reduce_rows(ops, total, batch.weight, reduction)

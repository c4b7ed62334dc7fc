"""Rows in PyTorch: the gradient formed in the forward pass, by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mcld_core.backends.ops.protocol import RowFunction

Array = Any


def map_rows(
    function: RowFunction,
    prepare: Callable[[Any], Any],
    rows: tuple[Array, ...],
    shared: Any,
    block_rows: int | None,
) -> tuple[Array, ...]:
    """Evaluate a function of rows: see `mcld_core.backends.ops.protocol.Backend.map_rows`.

    ``torch.compile`` fuses the plain form best, and ``torch.func`` transforms differentiate it in
    any mode and order, so both see that form.
    """
    if (
        block_rows is None
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
    ):
        return function(rows, prepare(shared), False)
    if torch.is_grad_enabled() and is_trained(shared):
        raise ValueError(
            "MCLDConfig: block_size needs None where a weight or temperature is itself trained; "
            f"got one that requires a gradient, which blocks of {block_rows} rows would not give "
            "it. Set block_size=None, or pass its detach()"
        )
    if not (torch.is_grad_enabled() and rows[0].requires_grad):
        with torch.no_grad():
            return _by_block(function, rows, prepare(shared), block_rows, False)
    return _Rows.apply(function, prepare, rows[1:], shared, block_rows, rows[0])


def is_trained(shared: Any) -> bool:
    """Whether a tensor, or one in a tuple of them, requires a gradient."""
    if isinstance(shared, torch.Tensor):
        return shared.requires_grad
    return isinstance(shared, tuple) and any(is_trained(x) for x in shared)


class _Rows(torch.autograd.Function):
    """All rows; keeps the gradient and references to the inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        function: RowFunction,
        prepare: Callable[[Any], Any],
        others: tuple[Array, ...],
        shared: Any,
        block_rows: int,
        student: Array,
    ) -> tuple[Array, ...]:
        total, *results, slope = _by_block(
            function, (student, *others), prepare(shared), block_rows, True
        )
        # the only term may be the total itself, which would lose its gradient with it
        results = [x.clone() if x is total else x for x in results]
        ctx.plain = lambda student: function((student, *others), prepare(shared), False)[0]
        ctx.save_for_backward(student, slope)
        ctx.mark_non_differentiable(*results)
        return (total, *results)

    @staticmethod
    def backward(ctx: Any, cotangent: Array, *_: Any) -> tuple[Any, ...]:
        student, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: through the plain form
            (gradient,) = torch.autograd.grad(
                ctx.plain(student), student, cotangent, create_graph=True
            )
        else:
            gradient = (cotangent[:, None] * slope).to(student.dtype)
        return None, None, None, None, None, gradient


def _by_block(
    function: RowFunction,
    rows: tuple[Array, ...],
    shared: Any,
    block_rows: int,
    gradient: bool,
) -> tuple[Array, ...]:
    """Evaluate block after block into arrays that are made once."""
    count = rows[0].shape[0]
    if count <= block_rows:
        return function(rows, shared, gradient)
    results: tuple[Array, ...] = ()
    for start in range(0, count, block_rows):
        block = slice(start, start + block_rows)
        parts = function(tuple(x[block] for x in rows), shared, gradient)
        if not results:
            results = tuple(part.new_empty((count, *part.shape[1:])) for part in parts)
        for result, part in zip(results, parts, strict=True):
            result[block] = part
    return results

"""Blocks of rows in PyTorch, where arrays that all rows share are trained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from mcld_core.backends.protocol import (
    Arrays,
    LayerFunction,
    RowsFunction,
    SharedFunction,
    through_layer,
)

Array = Any
_UNROLLED = 16
"""A compiled graph holds at most so many blocks."""


def without_autocast(x: Array) -> AbstractContextManager[Any]:
    """Return a context in which autocast narrows nothing; the meta device does not know it."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def joined(function: Callable[[Arrays], Arrays], rows: Arrays, block_rows: int) -> Arrays:
    """Evaluate block after block into arrays that are made once."""
    count = rows[0].shape[0]
    results: Arrays = ()
    for start in range(0, count, block_rows):
        block = slice(start, start + block_rows)
        parts = function(tuple(x[block] for x in rows))
        if not results:
            results = tuple(part.new_empty((count, *part.shape[1:])) for part in parts)
        for result, part in zip(results, parts, strict=True):
            result[block] = part
    return results


def layer_by_block(
    outputs: LayerFunction,
    function: RowsFunction,
    rows: Arrays,
    layer: Arrays,
    weights: Array | None,
    block_rows: int | None,
) -> Arrays:
    differentiated = weights is not None and _is_trained(rows[0], *layer)
    if not differentiated or torch.compiler.is_compiling() or is_plain(rows, block_rows):
        return by_block_twice(through_layer(outputs, function), rows, layer, block_rows)
    recipe = (outputs, function, block_rows, len(layer))
    return _Layer.apply(*recipe, weights, rows[0], *layer, *rows[1:])


def by_block_twice(
    function: SharedFunction, rows: Arrays, trained: Arrays, block_rows: int | None
) -> Arrays:
    if block_rows is None or is_plain(rows, block_rows):
        return function(rows, trained)
    if torch.compiler.is_compiling():
        return _unrolled(function, rows, trained, block_rows)
    if _is_trained(rows[0], *trained):
        return _Twice.apply(function, block_rows, len(trained), *trained, *rows)
    with torch.no_grad(), without_autocast(rows[0]):
        return joined(lambda block: function(block, trained), rows, block_rows)


def _unrolled(function: SharedFunction, rows: Arrays, trained: Arrays, block_rows: int) -> Arrays:
    """Evaluate few blocks, one after the other in the compiled graph, each twice."""
    count = rows[0].shape[0]
    size = max(block_rows, -(-count // _UNROLLED))
    dtypes = [x.dtype for x in trained]
    wide = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in trained]

    def narrowed(*arrays: Array) -> Arrays:
        shared = zip(arrays, dtypes, strict=False)
        return function(arrays[len(dtypes) :], tuple(x.to(dtype) for x, dtype in shared))

    parts = []
    with without_autocast(rows[0]):
        for start in range(0, count, size):
            block = (x[start : start + size] for x in rows)
            parts.append(checkpoint(narrowed, *wide, *block, use_reentrant=False))
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


def is_plain(rows: Arrays, block_rows: int | None) -> bool:
    """Whether all rows are evaluated at once, as the framework differentiates them."""
    return (
        block_rows is None
        or isinstance(rows[0].shape[0], torch.SymInt)  # a comparison would bound it in an export
        or rows[0].shape[0] <= block_rows
        or torch._C._are_functorch_transforms_active()
    )


def _is_trained(*arrays: Array) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in arrays)


class _Twice(torch.autograd.Function):
    """A function of rows by block, evaluated again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, function: SharedFunction, block_rows: int, shared: int, *arrays: Array
    ) -> Arrays:
        ctx.recipe = (function, block_rows, shared)
        ctx.save_for_backward(*arrays)
        ctx.set_materialize_grads(False)
        rows, trained = arrays[shared:], arrays[:shared]
        with without_autocast(rows[0]):
            return joined(lambda block: function(block, trained), rows, block_rows)

    @staticmethod
    def backward(ctx: Any, *cotangents: Array | None) -> tuple[Any, ...]:
        function, block_rows, shared = ctx.recipe
        arrays, second = ctx.saved_tensors, torch.is_grad_enabled()
        trained, rows = arrays[:shared], arrays[shared:]
        places = [i for i in range(shared + 1) if ctx.needs_input_grad[3 + i]]

        def gradients(block: slice) -> tuple[Array, ...]:
            leaves = (*trained, rows[0][block])
            if not second:
                leaves = tuple(x.detach() for x in leaves)
                for i in places:
                    leaves[i].requires_grad_()
            with torch.enable_grad(), without_autocast(rows[0]):
                results = function((leaves[-1], *(x[block] for x in rows[1:])), leaves[:-1])
            pairs = [
                (result, cotangent[block])
                for result, cotangent in zip(results, cotangents, strict=True)
                if cotangent is not None and result.requires_grad
            ]
            outputs, of_outputs = zip(*pairs, strict=True)
            wanted = [leaves[i] for i in places]
            return torch.autograd.grad(outputs, wanted, of_outputs, create_graph=second)

        # a second derivative is wanted: through the plain form
        size = rows[0].shape[0] if second else block_rows
        sums: dict[int, Array] = {}
        parts = []
        for start in range(0, rows[0].shape[0], size):
            for i, part in zip(places, gradients(slice(start, start + size)), strict=True):
                if i == shared:
                    parts.append(part)
                elif i in sums:
                    sums[i].add_(part)
                else:
                    sums[i] = part.to(torch.promote_types(part.dtype, torch.float32))
        found = {i: x.to(arrays[i].dtype) for i, x in sums.items()}
        if parts:
            found[shared] = torch.cat(parts)
        return (None, None, None, *(found.get(i) for i in range(len(arrays))))


class _Layer(torch.autograd.Function):
    """A function of a layer's outputs by block, differentiated in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        outputs: LayerFunction,
        function: RowsFunction,
        block_rows: int,
        size: int,
        weights: Array,
        hidden: Array,
        *arrays: Array,
    ) -> Arrays:
        layer, others = arrays[:size], arrays[size:]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        weight = layer[0].to(hidden.dtype)
        needs = ctx.needs_input_grad[5 : 6 + size]
        sums = [
            torch.zeros_like(x, dtype=wide) if need else None
            for x, need in zip(layer, needs[1:], strict=True)
        ]

        def with_gradient(block: Arrays) -> Arrays:
            z = outputs(block[1], layer).requires_grad_()
            with torch.enable_grad():
                total, *results = function((z, *block[2:]))
                (slope,) = torch.autograd.grad(total, z, block[0])
            if size > 1 and sums[1] is not None:
                sums[1].add_(slope.sum(0))
            slope = slope.to(hidden.dtype)
            if sums[0] is not None and hidden.dtype == wide:
                sums[0].addmm_(slope.mT, block[1])
            elif sums[0] is not None:
                sums[0].add_(slope.mT @ block[1])
            return (slope @ weight, total.detach(), *(x.detach() for x in results))

        with without_autocast(hidden):
            of_hidden, total, *results = joined(
                with_gradient, (weights, hidden, *others), block_rows
            )
        ctx.recipe = (outputs, function, size)
        ctx.save_for_backward(weights, hidden, *arrays, of_hidden, *sums)
        ctx.mark_non_differentiable(*results)
        return (total, *results)

    @staticmethod
    def backward(ctx: Any, cotangent: Array, *_: Any) -> tuple[Any, ...]:
        outputs, function, size = ctx.recipe
        weights, hidden, *arrays = ctx.saved_tensors
        arrays, gradients = arrays[: -1 - size], arrays[-1 - size :]
        given = (hidden, *arrays[:size])
        wanted = [i for i in range(1 + size) if ctx.needs_input_grad[5 + i]]
        found: list[Any] = [None] * (1 + len(arrays))
        if torch.is_grad_enabled():  # a second derivative is wanted: through the plain form
            total = function((outputs(hidden, given[1:]), *arrays[size:]))[0]
            parts = torch.autograd.grad(
                total, [given[i] for i in wanted], cotangent, create_graph=True
            )
        else:
            sum_of_weights = weights.sum()
            scale = cotangent.sum() / torch.where(sum_of_weights > 0, sum_of_weights, 1.0)
            parts = tuple((scale * gradients[i]).to(given[i].dtype) for i in wanted)
        for i, part in zip(wanted, parts, strict=True):
            found[i] = part
        return (None, None, None, None, None, *found)

"""The operations in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from mcld_core.backends.protocol import Arrays, RowFunction
from mcld_core.backends.torch_layers import by_block_twice as by_block_twice
from mcld_core.backends.torch_layers import is_plain, joined, without_autocast
from mcld_core.backends.torch_layers import layer_by_block as layer_by_block

Array = Any
name = "torch"
least_rows = 128

_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "int32": torch.int32,
    "int64": torch.int64,
    "bool": torch.bool,
}
_WITHOUT_FLOAT64 = ("mps",)
_FUSED_BLOCKS = 16
"""Up to so many blocks a compiler fuses the plain form, faster than a loop."""


def is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def is_trained(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.requires_grad


def asarray(x: Any, like: Array | None = None) -> Array:
    if isinstance(x, torch.Tensor):
        if torch.compiler.is_compiling() or not x.is_inference():
            return x
        # autograd saves no inference tensor; a copy made outside that mode is a plain one
        return x if torch.is_inference_mode_enabled() else x.clone()
    device = _accelerator() if like is None else like.device
    narrow = device is not None and device.type in _WITHOUT_FLOAT64
    if isinstance(x, float):  # not rounded to float32 first, where that can be
        dtype = torch.float32 if narrow else torch.float64
        if torch.compiler.is_compiling():  # a factor that changes does not recompile
            return torch.ones((), dtype=dtype, device=device) * x
        return torch.scalar_tensor(x, dtype=dtype, device=device)
    if narrow:
        x = torch.as_tensor(x)
        x = x.float() if x.dtype is torch.float64 else x
    return torch.as_tensor(x, device=device)


def _accelerator() -> torch.device | None:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def astype(x: Array, dtype: str) -> Array:
    wanted = _DTYPES[dtype]
    if x.dtype is torch.bool and not torch.compiler.is_compiling():
        x = x.to(torch.uint8)  # a CPU turns bytes into floats faster than bools
    return x if x.dtype is wanted else x.to(wanted)  # most calls of small batches change nothing


def dtype(x: Array) -> str:
    return str(x.dtype).removeprefix("torch.")


def size(x: Array, axis: int) -> int:
    return x.shape[axis]


def device(x: Array) -> str | None:
    return str(x.device)


def host_values(x: Array) -> np.ndarray[Any, Any] | None:
    if torch.compiler.is_compiling() or type(x) not in (torch.Tensor, torch.nn.Parameter):
        return None
    if x.device.type != "cpu" or torch._C._are_functorch_transforms_active():
        return None
    x = x.detach()
    return (x.float() if x.dtype is torch.bfloat16 else x).numpy()


exp = torch.exp
log = torch.log
sqrt = torch.sqrt
abs = torch.abs
isfinite = torch.isfinite
matrix_transpose = torch.t
where = torch.where
sum = torch.sum
max = torch.amax
all = torch.all
concat = torch.cat
reshape = torch.reshape
logsumexp = torch.logsumexp
softmax = torch.softmax
log_softmax = torch.log_softmax
log_sigmoid = torch.nn.functional.logsigmoid


def matmul(x: Array, y: Array) -> Array:
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return torch.matmul(x, y)
    if torch.compiler.is_compiling():
        with without_autocast(x):
            return torch.matmul(x, y)
    return _WideMatmul.apply(x, y)


class _WideMatmul(torch.autograd.Function):
    """A product of matrices that autocast does not narrow, neither forward nor backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Array, y: Array) -> Array:
        with without_autocast(x):
            return torch.matmul(x, y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Array, Array], output: Array) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Array) -> tuple[Array | None, Array | None]:
        x, y = ctx.saved_tensors
        by_x, by_y = ctx.needs_input_grad
        return (
            _WideMatmul.apply(gradient, y.mT) if by_x else None,
            _WideMatmul.apply(x.mT, gradient) if by_y else None,
        )


def maximum(x: Array, y: Any) -> Array:
    return torch.clamp(x, min=y)


def minimum(x: Array, y: Any) -> Array:
    return torch.clamp(x, max=y)


def at_least(x: Array, least: float) -> Array:
    return torch.threshold(x, least, least)


def add_scaled(x: Array, y: Array, factor: float) -> Array:
    return torch.add(x, y, alpha=factor)


def argmax(x: Array, axis: int) -> Array:
    return torch.argmax(x, dim=axis).to(torch.int32)


def cumulative_sum(x: Array) -> Array:
    return torch.cumsum(x, dim=0, dtype=x.dtype)


def sort(x: Array) -> Array:
    return torch.sort(x).values


def searchsorted(x: Array, values: Array) -> Array:
    return torch.searchsorted(x, values, out_int32=True)


def arange(n: int, like: Array) -> Array:
    return torch.arange(n, dtype=torch.int32, device=like.device)


def take(x: Array, indices: Array) -> Array:
    return torch.index_select(x, 0, indices)


def take_along_axis(x: Array, indices: Array, axis: int) -> Array:
    return torch.gather(x, axis, indices.long())


def put(x: Array, indices: Array, values: Array) -> Array:
    return torch.index_copy(x, 0, indices.long(), values)


def put_along_axis(x: Array, indices: Array, values: Any) -> Array:
    return torch.scatter(x, 1, indices.long(), values)


def add_along_axis(x: Array, indices: Array, values: Array) -> Array:
    return torch.scatter_add(x, 1, indices.long(), values)


def sparse(values: Array, indices: Array, columns: int) -> Any:
    """Return the entries by row and by column, each as `embedding_bag` takes them."""
    rows, k = indices.shape
    flat = indices.reshape(-1)
    order = torch.argsort(flat, stable=True)
    places = torch.arange(columns, device=flat.device, dtype=flat.dtype)
    starts = torch.searchsorted(flat[order], places)
    by_row = (values.reshape(-1), flat.long(), torch.arange(0, rows * k, k, device=flat.device))
    return by_row, (values.reshape(-1)[order], order // k, starts)


def sparse_matmul(x: Array, y: Any) -> Array:
    if torch.compiler.is_compiling() or y[0][0].requires_grad:  # of a key temperature
        return _bags(x.mT, *y[0]).mT
    return _SparseMatmul.apply(x, *y[0], *y[1])


def _bags(x: Array, values: Array, places: Array, starts: Array) -> Array:
    return torch.nn.functional.embedding_bag(
        places, x.contiguous(), starts, mode="sum", per_sample_weights=values
    )


class _SparseMatmul(torch.autograd.Function):
    """The product by row, whose gradient is the product by column."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Array, *entries: Array) -> Array:
        return _bags(x.mT, *entries[:3]).mT

    @staticmethod
    def setup_context(ctx: Any, inputs: Arrays, output: Array) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Array) -> tuple[Array | None, ...]:
        entries = ctx.saved_tensors
        return _SparseMatmul.apply(gradient, *entries[3:], *entries[:3]), *[None] * 6


def stop_gradient(x: Array) -> Array:
    return x.detach()


def by_block(
    function: RowFunction, prepare: Any, rows: Arrays, shared: Any, block_rows: int | None
) -> Arrays:
    if block_rows is None or is_plain(rows, block_rows):
        return function(rows, prepare(shared))
    if torch.compiler.is_compiling():
        if rows[0].shape[0] <= _FUSED_BLOCKS * block_rows:
            return function(rows, prepare(shared))
        return _by_loop(function, prepare, rows, shared, block_rows)
    if torch.is_grad_enabled() and rows[0].requires_grad:
        leaves, structure = pytree.tree_flatten((rows[1:], shared))
        return _Blocks.apply(function, prepare, structure, block_rows, rows[0], *leaves)
    with torch.no_grad(), without_autocast(rows[0]):
        ready = prepare(shared)
        return joined(lambda block: function(block, ready), rows, block_rows)


class _Blocks(torch.autograd.Function):
    """A function of rows by block; keeps the gradient, and its inputs for a second derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        function: RowFunction,
        prepare: Any,
        structure: Any,
        block_rows: int,
        student: Array,
        *leaves: Any,
    ) -> Arrays:
        others, shared = pytree.tree_unflatten(leaves, structure)

        def with_gradient(block: Arrays) -> Arrays:
            wide = torch.promote_types(student.dtype, torch.float32)
            anchors = block[0].detach().to(wide).requires_grad_()
            with torch.enable_grad():
                total, *results = function((anchors, *block[1:]), ready)
                (slope,) = torch.autograd.grad(total.sum(), anchors)
            return tuple(x.detach() for x in (total, *results, slope))

        with without_autocast(student):
            ready = prepare(shared)
            total, *results, slope = joined(with_gradient, (student, *others), block_rows)
        ctx.recipe = (function, prepare, structure)
        places = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]
        ctx.leaves = [None if i in places else x for i, x in enumerate(leaves)]
        ctx.places = places
        # saved so that a change in place is an error
        ctx.save_for_backward(student, slope, *(leaves[i] for i in places))
        ctx.mark_non_differentiable(*results)
        return (total, *results)

    @staticmethod
    def backward(ctx: Any, cotangent: Array, *_: Any) -> tuple[Any, ...]:
        student, slope, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: through the plain form
            function, prepare, structure = ctx.recipe
            leaves = list(ctx.leaves)
            for i, tensor in zip(ctx.places, tensors, strict=True):
                leaves[i] = tensor
            others, shared = pytree.tree_unflatten(leaves, structure)
            total = function((student, *others), prepare(shared))[0]
            (gradient,) = torch.autograd.grad(total, student, cotangent, create_graph=True)
        else:
            gradient = (cotangent[:, None] * slope).to(student.dtype)
        return (None, None, None, None, gradient, *[None] * len(ctx.leaves))


def _by_loop(
    function: RowFunction, prepare: Any, rows: Arrays, shared: Any, block_rows: int
) -> Arrays:
    """Evaluate blocks in a loop of the compiled graph, each differentiated within the loop."""
    from torch._higher_order_ops.map import map as loop  # torch has no public name for it

    student, count = rows[0], rows[0].shape[0]
    wide = torch.promote_types(student.dtype, torch.float32)
    blocks = _FUSED_BLOCKS
    while blocks * block_rows < count:  # a power of two, so that few sizes are compiled
        blocks *= 2
    size = -(-count // blocks)

    def split(x: Array) -> Array:
        x = torch.cat((x, x.new_zeros((blocks * size - count, *x.shape[1:]))))
        return x.reshape(blocks, size, *x.shape[1:])

    def with_gradient(block: Arrays) -> tuple[Array, Array]:
        def total_first(anchors: Array) -> tuple[Array, Arrays]:
            total, *results = function((anchors, *block[1:]), ready)
            return total, tuple(results)

        total, pull_back, results = torch.func.vjp(total_first, block[0], has_aux=True)
        (slope,) = pull_back(torch.ones_like(total))
        return torch.stack((total, *results), 1), slope.clone()  # no result may alias another

    with torch.no_grad(), without_autocast(student):
        ready = prepare(shared)
        anchors = student.detach().to(wide)
        values, slope = loop(with_gradient, tuple(split(x) for x in (anchors, *rows[1:])))
    total, *results = values.reshape(blocks * size, -1)[:count].unbind(1)
    slope = slope.reshape(blocks * size, -1)[:count]
    moved = torch.where(torch.isfinite(student), student, 0.0).to(wide)
    # adds 0; its gradient is the slope (tracing a Function of autograd warns)
    return total + torch.sum(slope * (moved - moved.detach()), 1), *results

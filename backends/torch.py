"""The operations in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from mcld_core.backends.protocol import Arrays, KeptRows, RowFunction

Array = Any
name = "torch"
checks_devices = True
least_rows = 128
_WITHOUT_FLOAT64 = ("mps",)


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
    device = like.device if isinstance(like, torch.Tensor) else _accelerator()
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
    wanted = getattr(torch, dtype)
    if x.dtype is torch.bool and not torch.compiler.is_compiling():
        x = x.to(torch.uint8)  # a CPU turns bytes into floats faster than bools
    return x if x.dtype is wanted else x.to(wanted)  # most calls of small batches change nothing


def dtype(x: Array) -> str:
    return str(x.dtype).removeprefix("torch.")


def host_values(x: Array) -> np.ndarray[Any, Any] | None:
    if torch.compiler.is_compiling() or type(x) not in (torch.Tensor, torch.nn.Parameter):
        return None
    if x.device.type != "cpu" or torch._C._are_functorch_transforms_active():
        return None
    return (x.float() if x.dtype is torch.bfloat16 else x).detach().numpy()


size = torch.Tensor.size
exp = torch.exp
expm1 = torch.expm1
tanh = torch.tanh
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
log_softmax = torch.log_softmax
log_sigmoid = torch.nn.functional.logsigmoid
stop_gradient = torch.Tensor.detach


def softmax(x: Array, axis: int, out: Array | None = None) -> Array:
    return torch.softmax(x, axis, out=out)


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


def argmax(x: Array, axis: int) -> Array:
    return torch.argmax(x, dim=axis).to(torch.int32)


def cumulative_sum(x: Array) -> Array:
    return torch.cumsum(x, dim=0, dtype=x.dtype)


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
    return x.scatter_add_(1, indices.long(), values)


def value_and_slopes(function: Callable[..., Array], arrays: Arrays) -> Any:
    leaves = tuple(x.detach().requires_grad_() for x in arrays)
    with torch.enable_grad():
        value = function(*leaves)
    return value.detach(), torch.autograd.grad(value, leaves, torch.ones_like(value))


def without_autocast(x: Array) -> AbstractContextManager[Any]:
    """Return a context in which autocast narrows nothing; the meta device does not know it."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def by_block(
    function: RowFunction, prepare: Any, rows: Arrays, shared: Any, block_rows: int | None
) -> Arrays:
    count = rows[0].shape[0]
    if (
        block_rows is None
        or torch.compiler.is_compiling()  # a compiler fuses all rows
        or isinstance(count, torch.SymInt)  # a comparison would bound it in an export
        or count <= block_rows
        or torch._C._are_functorch_transforms_active()
    ):
        return function(rows, prepare(shared))
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
        tensors = [x if isinstance(x, torch.Tensor) else None for x in leaves]
        ctx.others = [x if y is None else None for x, y in zip(leaves, tensors, strict=True)]
        ctx.save_for_backward(student, slope, *tensors)  # so that a change in place is an error
        ctx.mark_non_differentiable(*results)
        return (total, *results)

    @staticmethod
    def backward(ctx: Any, cotangent: Array, *_: Any) -> tuple[Any, ...]:
        student, slope, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: through the plain form
            function, prepare, structure = ctx.recipe
            pairs = zip(tensors, ctx.others, strict=True)
            leaves = [other if tensor is None else tensor for tensor, other in pairs]
            others, shared = pytree.tree_unflatten(leaves, structure)
            total = function((student, *others), prepare(shared))[0]
            (gradient,) = torch.autograd.grad(total, student, cotangent, create_graph=True)
        else:
            gradient = (cotangent[:, None] * slope).to(student.dtype)
        return (None, None, None, None, gradient, *[None] * len(ctx.others))


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


def by_kept_block(loss: Any, rows: KeptRows, sizes: tuple[int, int]) -> Array:
    compiled = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    trains_layer = rows.scale is None and any(x.requires_grad for x in rows.layer)
    if compiled or trains_layer or rows.x.device.type == "meta":
        return loss.whole(_chosen(rows) if torch.compiler.is_dynamo_compiling() else rows)
    trains = torch.is_grad_enabled()
    found: Array = _KeptBlocks.apply(loss, rows, sizes, trains, rows.x, *rows.layer)
    return found


def _chosen(rows: KeptRows) -> KeptRows:
    """Return the first row and those that count; all, where each row keeps its own value."""
    if rows.kept is None or rows.scale is None or not len(rows.x) or torch.__version__ < (2, 13):
        return rows
    places = (rows.kept | (arange(len(rows.x), rows.x) == 0)).nonzero()[:, 0]
    torch._check(places.shape[0] >= 1)
    weight = None if rows.weight is None else rows.weight[places]
    beside = tuple(y[places] for y in rows.beside)
    return rows._replace(x=rows.x[places], beside=beside, kept=rows.kept[places], weight=weight)


class _KeptBlocks(torch.autograd.Function):
    """A loss of rows that count by block; its gradient is in one array, which backward returns."""

    @staticmethod
    def forward(
        ctx: Any, loss: Any, rows: KeptRows, sizes: Any, trains: bool, x: Array, *layer: Array
    ) -> Array:
        needs = [trains and need for need in ctx.needs_input_grad[4:]]
        with without_autocast(x):
            values, ctx.slopes = _blocks(loss, rows._replace(x=x, layer=layer), sizes, needs)
        ctx.dtypes = [y.dtype for y in (x, *layer)]
        return values if rows.scale is None else rows.scale * values.sum()

    @staticmethod
    def backward(ctx: Any, cotangent: Array) -> tuple[Any, ...]:
        if ctx.slopes is None or torch.is_grad_enabled():
            raise RuntimeError(
                "the gradient of this loss is one array, which its backward pass gave away: it has "
                "one backward pass, and no second derivative. Call the loss again"
            )
        slopes, ctx.slopes = ctx.slopes, None
        if cotangent.dim() or cotangent.device.type != "cpu" or cotangent != 1.0:
            factor = cotangent[:, None] if cotangent.dim() else cotangent
            slopes = [None if y is None else y.mul_(factor) for y in slopes]
        pairs = zip(slopes, ctx.dtypes, strict=True)
        return (None, None, None, None, *(None if y is None else y.to(d) for y, d in pairs))


def _blocks(
    loss: Any, rows: KeptRows, sizes: tuple[int, int], needs: list[bool]
) -> tuple[Array, list[Array | None]]:
    """Return weighted values a row, and the slopes of x, weight and bias of their scaled sum.

    Those of x are in its dtype, or in float32 beside float16, which has no room for a mean's.
    """
    x, layer, few = rows.x, rows.layer, sizes[1]
    wide = torch.promote_types(x.dtype, torch.float32)
    narrow = wide if x.dtype is torch.float16 else x.dtype
    places = None if rows.kept is None else rows.kept.nonzero()[:, 0]
    count = x.shape[0] if places is None else places.shape[0]
    scale = 1.0 if rows.scale is None else rows.scale
    values = torch.zeros(x.shape[0], dtype=wide, device=x.device)
    slopes = [
        torch.zeros_like(y, dtype=wide) if need else None
        for y, need in zip(layer, needs[1:], strict=True)
    ]
    like = torch.empty_like if places is None else torch.zeros_like
    of_x: Any = like(x, dtype=narrow) if needs[0] else None
    many = sizes[0] if layer or rows.shared else few
    weight: Any = layer[0].to(x.dtype) if layer else None
    outputs = None if weight is None else x.new_empty((min(many, count), weight.shape[0]))
    for start in range(0, count, many):
        some = slice(start, start + many) if places is None else _run(places[start : start + many])
        z = block = _rows(x, some)
        if outputs is not None:
            z = torch.mm(block, weight.mT, out=outputs[: len(block)])
            z = z if len(layer) == 1 else z.add_(layer[1])
        into = z  # where the slopes go
        if not layer and any(needs):
            is_run = isinstance(some, slice)
            into = of_x[some] if is_run else torch.empty_like(block, dtype=narrow)
        beside = loss.prepare(tuple(_rows(y, some) for y in rows.beside), rows.shared)
        factors = None if rows.weight is None else rows.weight[some]
        found = values.new_empty(len(block))
        for begin in range(0, len(block), few):
            part = slice(begin, begin + few)
            given = z[part].to(wide), tuple(y[part] for y in beside)
            if not any(needs):
                found[part] = loss.values(*given)
                continue
            factor = 1.0 if factors is None else factors[part][:, None]
            out = into[part] if not layer and narrow is wide else None
            # with a layer not scaled yet: half precision keeps no mean's slope
            found[part], slope = loss.with_slope(*given, factor if layer else factor * scale, out)
            if slope is not out:
                into[part] = slope
        values[some] = found if factors is None else found * factors
        if not any(needs):
            continue
        if layer and of_x is not None:
            of_x[some] = (z @ weight).to(narrow)
        elif not layer and not isinstance(some, slice):
            of_x.index_copy_(0, some, into)
        if layer and slopes[0] is not None and x.dtype is wide:
            slopes[0].addmm_(z.mT, block)
        elif layer and slopes[0] is not None:
            slopes[0].add_(z.mT @ block)
        if len(slopes) > 1 and slopes[1] is not None:
            slopes[1].add_(z.sum(0, dtype=wide))
    slopes = [of_x, *slopes]
    if layer and rows.scale is not None:
        slopes = [None if y is None else y.mul_(scale) for y in slopes]
    return values, slopes


def _run(places: Array) -> Array | slice:
    """Return places that follow each other as a slice, which copies nothing."""
    if places.device.type == "cpu" and places[-1] - places[0] == len(places) - 1:
        return slice(int(places[0]), int(places[-1]) + 1)
    return places


def _rows(x: Array, some: Any) -> Array:
    return x[some] if isinstance(some, slice) else x.index_select(0, some)

"""The operations in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mcld_core.backends.ops.torch_blocks import is_trained as is_trained
from mcld_core.backends.ops.torch_blocks import map_rows as map_rows

Array = Any
name = "torch"

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


def is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def asarray(x: Any, like: Array | None = None) -> Array:
    if isinstance(x, torch.Tensor):
        return x
    device = _accelerator() if like is None else like.device
    narrow = device is not None and device.type in _WITHOUT_FLOAT64
    if isinstance(x, float):  # not rounded to float32 first, where that can be
        dtype = torch.float32 if narrow else torch.float64
        if torch.compiler.is_compiling():  # a number that changes is no recompile as a factor
            return torch.ones((), dtype=dtype, device=device) * x
        return torch.scalar_tensor(x, dtype=dtype, device=device)
    if narrow:
        x = torch.as_tensor(x)
        x = x.float() if x.dtype is torch.float64 else x
    return torch.as_tensor(x, device=device)


def _accelerator() -> torch.device | None:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def astype(x: Array, dtype: str) -> Array:
    return x.to(_DTYPES[dtype])


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
softmax = torch.softmax
log_softmax = torch.log_softmax


def matmul(x: Array, y: Array) -> Array:
    if not torch.is_autocast_enabled(x.device.type):
        return torch.matmul(x, y)
    with torch.autocast(x.device.type, enabled=False):  # the loss is float32 inside
        return torch.matmul(x, y)


def softplus(x: Array) -> Array:
    return -torch.nn.functional.logsigmoid(-x)  # F.softplus is linear from 20 on: 2e-9 off


def maximum(x: Array, y: Any) -> Array:
    return torch.clamp(x, min=y)


def minimum(x: Array, y: Any) -> Array:
    return torch.clamp(x, max=y)


def sum(x: Array, axis: int | None, keepdims: bool = False) -> Array:
    return torch.sum(x) if axis is None else torch.sum(x, dim=axis, keepdim=keepdims)


def max(x: Array, axis: int, keepdims: bool = False) -> Array:
    return torch.amax(x, dim=axis, keepdim=keepdims)


def all(x: Array, axis: int) -> Array:
    return torch.all(x, dim=axis)


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


def reshape(x: Array, shape: Sequence[int]) -> Array:
    return torch.reshape(x, tuple(shape))


def take(x: Array, indices: Array) -> Array:
    return torch.index_select(x, 0, indices)


def take_along_axis(x: Array, indices: Array, axis: int) -> Array:
    return torch.gather(x, axis, indices.long())


def concat(arrays: Sequence[Array]) -> Array:
    return torch.cat(tuple(arrays), dim=0)


def put(x: Array, indices: Array, values: Array) -> Array:
    return torch.index_copy(x, 0, indices.long(), values)


def put_along_axis(x: Array, indices: Array, values: Array) -> Array:
    return torch.scatter(x, 1, indices.long(), values)


def stop_gradient(x: Array) -> Array:
    return x.detach()

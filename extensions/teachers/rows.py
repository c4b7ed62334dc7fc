"""A teacher's rows, checked and converted: what the functions of `teachers` do first."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mcld_core.arguments import (
    check_device,
    check_label_values,
    check_rows,
    class_labels,
    keep_rows,
    label_kind,
)
from mcld_core.backends import Backend
from mcld_core.formulas.contrast import MASKED
from mcld_core.typing import Array, Bool, Float, Int, Scalar


class TeacherRows(NamedTuple):
    """Rows of one teacher, in the dtype computed in, without a gradient."""

    logits: Float[Array, "batch classes"]
    """Finite below (−inf is `MASKED`), and 0 in the rows that do not count."""
    labels: Int[Array, "batch"] | Float[Array, "batch classes"]  # noqa: F821
    """Int labels are -1 where they name no class."""
    kept: Bool[Array, "batch"]  # noqa: F821
    dtype: str


def like_of(ops: Backend, *values: Any) -> Array | None:
    """Return the first tensor of the values: what plain arrays beside it are converted to."""
    return next((x for x in values if x is not None and ops.is_tensor(x)), None)


def teacher_rows(
    function: str,
    ops: Backend,
    teacher_logits: Any,
    labels: Any = None,
    where: Any = None,
    *,
    like: Array | None = None,
    ignore_index: int = -100,
    dtype: str | None = None,
    argument: str = "teacher_logits",
    drop_ignored: bool = True,
) -> TeacherRows:
    """Check and convert a teacher's logits, labels (None: its arg max) and mask."""
    rows = ops.asarray(teacher_logits, like)
    shape = tuple(rows.shape)
    if len(shape) != 2 or not shape[1]:
        raise ValueError(
            f"{function}: {argument} needs two axes (batch, classes), the second known and not "
            f"empty; got shape {shape}"
        )
    if "float" not in ops.dtype(rows):
        raise TypeError(f"{function}: {argument} needs a float dtype; got {ops.dtype(rows)}")
    if like is not None:
        check_device(function, ops, argument, rows, like)
    if dtype is None:
        dtype = "float64" if ops.dtype(rows) == "float64" else "float32"
    rows = ops.stop_gradient(rows)
    kept = ops.arange(ops.size(rows, 0), rows) >= 0
    if where is not None:
        kept = ops.asarray(where, rows)
        check_rows(function, "where", kept, shape[0])
        if ops.dtype(kept) != "bool":
            raise TypeError(
                f"{function}: where needs dtype bool (True = keep); got {ops.dtype(kept)}"
            )
        check_device(function, ops, "where", kept, rows)
    if labels is not None:
        labels = ops.asarray(labels, rows)
        kind = label_kind(function, "labels", ops, labels, shape[0], shape[1])
        check_device(function, ops, "labels", labels, rows)
        check_label_values(function, "labels", ops, labels, kept, shape[1], ignore_index)
        if kind == "soft":
            labels = keep_rows(ops, ops.stop_gradient(ops.astype(labels, dtype)), kept)
        else:
            labels, counts = class_labels(ops, labels, shape[1], ignore_index)
            kept = kept & counts if drop_ignored else kept
    logits = ops.maximum(keep_rows(ops, ops.astype(rows, dtype), kept), MASKED)
    if labels is None:
        labels = ops.argmax(logits, 1)
    return TeacherRows(logits, labels, kept, dtype)


def target_class(ops: Backend, labels: Array) -> Int[Array, "batch"]:  # noqa: F821
    """Return int labels as they are and the arg max of soft ones."""
    return labels if labels.ndim == 1 else ops.argmax(labels, 1)


def log_softmax(ops: Backend, x: Float[Array, "batch classes"]) -> Float[Array, "batch classes"]:
    """Return the logarithm of the softmax of each row."""
    shifted = x - ops.max(x, 1, keepdims=True)
    return shifted - ops.log(ops.sum(ops.exp(shifted), 1, keepdims=True))


def one_number(
    function: str, ops: Backend, argument: str, x: Any, like: Array, dtype: str
) -> Scalar:
    """Return a Python number as it is, a zero-dimensional array converted."""
    if isinstance(x, (int, float)):
        return x
    x = ops.asarray(x, like)
    if len(x.shape):
        raise ValueError(
            f"{function}: {argument} needs a number or a zero-dimensional array; got shape "
            f"{tuple(x.shape)}"
        )
    return row_numbers(function, ops, argument, x, like, dtype)


def row_numbers(
    function: str, ops: Backend, argument: str, x: Any, like: Array, dtype: str
) -> Scalar | Float[Array, "batch"]:  # noqa: F821
    """Return a Python number as it is, a zero-dimensional array or (batch,) rows converted."""
    if isinstance(x, (int, float)):
        return x
    x = ops.asarray(x, like)
    if len(x.shape):
        check_rows(function, argument, x, like.shape[0])
    check_device(function, ops, argument, x, like)
    return ops.stop_gradient(ops.astype(x, dtype))


def row_weights(
    function: str,
    ops: Backend,
    argument: str,
    x: Any,
    kept: Bool[Array, "batch"],  # noqa: F821
    like: Array,
    dtype: str,
) -> Float[Array, "batch"]:  # noqa: F821
    """Return weights ≥ 0 as (batch,) rows, 0 in dropped ones, whatever stood there.

    Raises ValueError for a weight below 0 where the values can be read for free.
    """
    weight = 0.0 * ops.astype(kept, dtype) + row_numbers(function, ops, argument, x, like, dtype)
    values, mask = ops.host_values(weight), ops.host_values(kept)
    if values is not None and mask is not None and (bad := ~(values >= 0) & mask).any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{function}: {argument} needs numbers ≥ 0; got {values[row]} in row {row}"
        )
    return ops.where(kept, weight, 0.0)


def clip01(ops: Backend, x: Array) -> Array:
    """Return x limited to 0 … 1."""
    return ops.minimum(ops.maximum(x, 0.0), 1.0)

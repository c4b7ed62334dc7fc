"""Rows that are checked and converted, and small functions of dtypes, shapes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcld_core.arguments.checks import is_number
from mcld_core.backends import Backend
from mcld_core.typing import Array, Bool, Float, Int, Labels, Places, Scalar

MASKED = -1e30
"""The logit of what does not count, and the logarithm of 0: finite, so that times 0 it is 0."""


class Batch(NamedTuple):
    """The rows of a batch; the logits as they came, all else in the dtype computed in."""

    student: Float[Array, "batch classes"]
    teacher: Float[Array, "batch classes"]
    dtype: str
    """float64 for a float64 student, else float32."""
    labels: Int[Array, " batch"] | Float[Array, "batch classes"] | None
    """Int labels are -1 where they name no class; None where the loss needs none."""
    kept: Bool[Array, " batch"] | None
    """Which rows count; None where all do."""
    weight: Float[Array, " batch"] | None
    """``sample_weight`` times kept; None where every row weighs 1."""


class TeacherBatch(NamedTuple):
    """A teacher's rows where there is no student: for a bank, or for other replicas."""

    logits: Float[Array, "batch classes"]
    labels: Int[Array, " batch"] | Float[Array, "batch classes"] | None
    """int32, -1 where they name no class; or soft, in float32 or float64."""
    kept: Bool[Array, " batch"]
    weight: Float[Array, " batch"]
    """``sample_weight`` times kept, in float64 where an argument is, else float32."""


def sizes_differ(ours: Any, theirs: Any) -> bool:
    """Whether two sizes differ; an unknown size (None) differs from nothing."""
    return ours is not None and theirs is not None and ours != theirs


def fits(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Whether two shapes may be one; a size that TensorFlow does not know fits any."""
    return len(ours) == len(theirs) and not any(map(sizes_differ, ours, theirs))


def wide_dtype(*dtypes: str) -> str:
    """Return float64 if one of the dtypes is float64, else float32."""
    return "float64" if "float64" in dtypes else "float32"


def as_number(ops: Backend, value: Scalar, like: Array, dtype: str) -> Any:
    """Return a number of Python as it is, anything else as ``dtype`` on ``like``'s device."""
    return value if is_number(value) else ops.astype(ops.asarray(value, like), dtype)


def class_labels(
    ops: Backend, labels: Int[Array, " rows"], classes: int, ignore_index: int
) -> tuple[Int[Array, " rows"], Bool[Array, " rows"]]:
    """Return int labels as int32, -1 where they name no class, and which are not ignored.

    The classes are told apart before the cast, in which 2**32 + 1 would become 1; in a signed
    dtype, for a uint8 156 is -100 to some.
    """
    dtype = ops.dtype(labels)
    if dtype not in ("int32", "int64"):
        labels = ops.astype(labels, "int64" if dtype == "uint64" else "int32")
    named = ops.where((labels >= 0) & (labels < classes), labels, -1)
    return ops.astype(named, "int32"), labels != ignore_index


def target_class(ops: Backend, labels: Labels) -> Places:
    """Return int labels as they are and the arg max of soft ones."""
    return labels if labels.ndim == 1 else ops.argmax(labels, 1)


def one_hot(ops: Backend, labels: Array, classes: int, dtype: str) -> Float[Array, "rows classes"]:
    """Return int labels as one-hot rows (zeros where out of range); soft labels unchanged."""
    if labels.ndim == 2:
        return labels
    places = ops.astype(ops.arange(classes, labels), ops.dtype(labels))
    return ops.astype(places[None, :] == labels[:, None], dtype)


def both_kept(kept: Array | None, counts: Array | None) -> Array | None:
    """Return the rows that two masks keep; None keeps all."""
    if kept is None or counts is None:
        return counts if kept is None else kept
    return kept & counts


def keep_rows(ops: Backend, x: Array, kept: Bool[Array, " rows"] | None = None) -> Array:
    """Return rows or numbers with zeros where they do not count, so that their content cannot."""
    if kept is None:
        return x
    return ops.where(kept[:, None] if len(x.shape) > 1 else kept, x, 0.0)


def ratio(ops: Backend, part: Array, whole: Array) -> Array:
    """Return ``part / whole``, and 0 where the whole, which is ≥ 0, is 0."""
    positive = whole > 0
    return ops.where(positive, part / ops.where(positive, whole, 1.0), 0.0)


def clip01(ops: Backend, x: Array) -> Array:
    """Return x limited to 0 … 1."""
    return ops.minimum(ops.maximum(x, 0.0), 1.0)


def log_of(ops: Backend, x: Array) -> Array:
    """Return the logarithm of x ≥ 0, `MASKED` where it is 0."""
    positive = x > 0
    return ops.where(positive, ops.log(ops.where(positive, x, 1.0)), MASKED)


def to_numpy(x: Any) -> NDArray[Any]:
    """Convert an array or tensor of any framework, from an accelerator too."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float() if str(x.dtype) == "torch.bfloat16" else x
    return np.asarray(x)

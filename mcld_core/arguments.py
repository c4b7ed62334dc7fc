"""The arguments of a loss, checked and converted: what every public function does first."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mcld_core.backends import Backend
from mcld_core.typing import Array, Bool, Float, Int, Reduction, Scalar

REDUCTIONS = ("mean", "sum", "none")


class Batch(NamedTuple):
    """The rows of a batch; the logits as they came, all else in the dtype computed in."""

    student: Float[Array, "batch classes"]
    teacher: Float[Array, "batch classes"]
    dtype: str
    """float64 for a float64 student, else float32."""
    labels: Int[Array, "batch"] | Float[Array, "batch classes"] | None  # noqa: F821
    """Int labels are -1 where they name no class; None where the loss needs none."""
    kept: Bool[Array, "batch"] | None  # noqa: F821
    """Which rows count; None where all do."""
    weight: Float[Array, "batch"] | None  # noqa: F821
    """``sample_weight`` times kept; None where every row weighs 1."""


def prepare(
    function: str,
    ops: Backend,
    student_logits: Any,
    teacher_logits: Any,
    labels: Any,
    sample_weight: Any,
    where: Any,
    ignore_index: int = -100,
    needs_labels: bool = True,
) -> Batch:
    """Check and convert the arguments that all losses share. Errors name ``function``."""
    student, teacher = checked_pair(function, ops, student_logits, teacher_logits)
    batch, classes = student.shape

    kept = None
    if where is not None:
        kept = checked_mask(function, "where", ops, where, batch, student)
    dtype = wide_dtype(ops.dtype(student))
    teacher = ops.stop_gradient(teacher)
    if labels is None:
        labels = ops.argmax(teacher, 1) if needs_labels else None
    else:
        labels = ops.asarray(labels, student)
        kind = label_kind(function, "labels", ops, labels, batch, classes)
        check_device(function, ops, "labels", labels, student)
        check_label_values(function, "labels", ops, labels, kept, classes, ignore_index)
        if kind == "soft":
            labels = keep_rows(ops, ops.stop_gradient(ops.astype(labels, dtype)), kept)
        else:
            labels, counts = class_labels(ops, labels, classes, ignore_index)
            kept = unless_all(ops, counts if kept is None else kept & counts)
    weight = None if kept is None else ops.astype(kept, dtype)
    if sample_weight is not None:
        weight = _checked_weight(function, ops, sample_weight, kept, student, dtype)
    return Batch(student, teacher, dtype, labels, kept, weight)


class TeacherRows(NamedTuple):
    """What comes with a teacher's rows where there is no student: for a bank, other replicas."""

    labels: Int[Array, "batch"] | Float[Array, "batch classes"] | None  # noqa: F821
    """int32 as they came, or soft in float32 or float64."""
    kept: Bool[Array, "batch"]  # noqa: F821
    weight: Float[Array, "batch"]  # noqa: F821
    """``sample_weight`` times kept, in float64 where an argument is, else float32."""


def prepare_teacher(
    function: str,
    argument: str,
    ops: Backend,
    logits: Float[Array, "batch classes"],
    labels: Any,
    sample_weight: Any,
    where: Any,
    ignore_index: int,
) -> TeacherRows:
    """Check and convert what comes with a teacher's logits. Errors name both first arguments."""
    check_logits(function, argument, ops, logits)
    batch, classes = logits.shape
    kept = ops.arange(ops.size(logits, 0), logits) >= 0
    if where is not None:
        kept = checked_mask(function, "where", ops, where, batch, logits, argument)
    dtype = ops.dtype(logits)
    if labels is not None:
        labels = ops.asarray(labels, logits)
        kind = label_kind(function, "labels", ops, labels, batch, classes)
        check_device(function, ops, "labels", labels, logits, argument)
        check_label_values(function, "labels", ops, labels, kept, classes, ignore_index)
        if kind == "soft":
            labels = ops.stop_gradient(ops.astype(labels, wide_dtype(dtype, ops.dtype(labels))))
        else:
            labels = _signed(ops, labels)
            kept = kept & (labels != ignore_index)
            limits = np.iinfo("int32")
            labels = ops.minimum(ops.maximum(labels, limits.min), limits.max)
            labels = ops.astype(labels, "int32")
    if sample_weight is None:
        weight = ops.astype(kept, wide_dtype(dtype))
    else:
        weight = ops.asarray(sample_weight, logits)
        dtype = wide_dtype(dtype, ops.dtype(weight))
        weight = _checked_weight(function, ops, weight, kept, logits, dtype, argument)
    return TeacherRows(labels, kept, weight)


def wide_dtype(*dtypes: str) -> str:
    """Return float64 if one of the dtypes is float64, else float32."""
    return "float64" if "float64" in dtypes else "float32"


def keep_rows(ops: Backend, x: Array, kept: Bool[Array, "rows"] | None = None) -> Array:  # noqa: F821
    """Return ``x`` with zeros in the rows that do not count, so that their content cannot."""
    return x if kept is None else ops.where(kept[:, None], x, 0.0)


def unless_all(ops: Backend, kept: Bool[Array, "rows"]) -> Bool[Array, "rows"] | None:  # noqa: F821
    """Return None where all rows are seen to be kept for free, which saves masking them."""
    values = ops.host_values(kept)
    return None if values is not None and values.all() else kept


def reduce_rows(
    ops: Backend,
    rows: Float[Array, "batch"],  # noqa: F821
    batch: Batch,
    reduction: Reduction,
    normalizer: Scalar | None = None,
) -> Array:
    """Reduce rows: v L ("none"), Σ v L ("sum"), Σ v L / Σ v ("mean"; 0 where nothing is kept)."""
    weight = batch.weight
    if weight is not None:
        rows = rows * weight
    if reduction == "none":
        return rows
    total = ops.sum(rows, None)
    if reduction == "sum":
        return total
    if normalizer is None:
        normalizer = ops.size(rows, 0) if weight is None else ops.sum(weight, None)
        if isinstance(normalizer, int):
            return total / max(normalizer, 1)
    normalizer = ops.astype(ops.asarray(normalizer, rows), batch.dtype)
    positive = normalizer > 0
    return ops.where(positive, total / ops.where(positive, normalizer, 1.0), 0.0)


def rows_at_once(ops: Backend, block_size: int | str | None, keys: Any, classes: int) -> Any:
    """Return how many anchor rows a block has; None for the plain form, without blocks.

    ``"auto"``: about 1 MB for the largest array of a block, but at least 256 rows, below which
    the matrix products slow down.
    """
    if block_size != "auto":
        return block_size
    if isinstance(keys, int):
        return max(256, 2**18 // max(keys, classes, 1))
    return ops.maximum(2**18 // ops.maximum(keys, classes), 256)


def check_reduction(function: str, reduction: str) -> None:
    """Raise ValueError unless the reduction is one of the three."""
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"{function}: reduction needs one of 'mean', 'sum', 'none'; got {reduction!r}"
        )


def check_rows(function: str, argument: str, x: Array, rows: Any) -> None:
    """Raise ValueError unless ``x`` has one axis with one entry a row."""
    shape = tuple(x.shape)
    if len(shape) != 1 or _differ(shape[0], rows):
        raise ValueError(
            f"{function}: {argument} needs shape ({rows},), one entry a row of the logits; "
            f"got {shape}"
        )


def check_device(
    function: str,
    ops: Backend,
    argument: str,
    x: Array,
    other: Array,
    other_argument: str = "student_logits",
) -> None:
    """Raise ValueError where two tensors lie on different devices."""
    here, there = ops.device(other), ops.device(x)
    if here != there:
        raise ValueError(
            f"{function}: {argument} is on {there} and {other_argument} on {here}; "
            "move one of them (no tensor is moved for you)"
        )


def checked_mask(
    function: str,
    argument: str,
    ops: Backend,
    where: Any,
    rows: Any,
    other: Array,
    other_argument: str = "student_logits",
) -> Bool[Array, "rows"]:  # noqa: F821
    """Return a mask of rows, converted; raise for another shape, dtype or device."""
    kept = ops.asarray(where, other)
    check_rows(function, argument, kept, rows)
    if ops.dtype(kept) != "bool":
        raise TypeError(
            f"{function}: {argument} needs dtype bool (True = keep); got {ops.dtype(kept)}"
        )
    check_device(function, ops, argument, kept, other, other_argument)
    return kept


def label_kind(
    function: str, argument: str, ops: Backend, labels: Array, rows: Any, classes: int
) -> str:
    """Return ``"int"`` or ``"soft"``; raise where shape and dtype are neither."""
    shape, dtype = tuple(labels.shape), ops.dtype(labels)
    is_integer = dtype.startswith(("int", "uint"))
    if len(shape) == 1:
        if not is_integer:
            raise TypeError(
                f"{function}: {argument} of shape {shape} need an integer dtype; got {dtype}. "
                f"Soft labels have shape (rows, classes) = ({rows}, {classes})"
            )
        check_rows(function, argument, labels, rows)
        return "int"
    if len(shape) != 2 or _differ(shape[0], rows) or _differ(shape[1], classes):
        raise ValueError(
            f"{function}: {argument} need shape ({rows},) for int labels or ({rows}, {classes}) "
            f"for soft labels; got {shape}"
        )
    return "soft"


def check_label_values(
    function: str,
    argument: str,
    ops: Backend,
    labels: Array,
    kept: Array | None,
    classes: int,
    ignore_index: int,
) -> None:
    """Raise ValueError for labels that name no class, where their values can be read for free."""
    values = ops.host_values(labels)
    mask = None if kept is None else ops.host_values(kept)
    if values is None or values.size == 0 or (kept is not None and mask is None):
        return
    if values.ndim == 1:
        bad = ((values < 0) | (values >= classes)) & (values != ignore_index)
        wrong = f"needs labels in 0 … {classes - 1} or ignore_index {ignore_index}"
    else:
        values = np.asarray(values, "float64")
        total = values.sum(1)
        bad = ~((values >= 0).all(1) & (np.abs(total - 1.0) <= 1e-2))
        wrong = "needs soft labels that are ≥ 0 and sum to 1 in each row"
    if mask is not None:
        bad = bad & mask
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{function}: {argument} {wrong}; got {values[row]} in row {row}")


def class_labels(
    ops: Backend,
    labels: Int[Array, "rows"],  # noqa: F821
    classes: int,
    ignore_index: int,
) -> tuple[Int[Array, "rows"], Bool[Array, "rows"]]:  # noqa: F821
    """Return int labels as int32, -1 where they name no class, and which are not ignored.

    The classes are told apart before the cast, in which 2**32 + 1 would become 1.
    """
    labels = _signed(ops, labels)
    named = ops.where((labels >= 0) & (labels < classes), labels, -1)
    return ops.astype(named, "int32"), labels != ignore_index


def _signed(ops: Backend, labels: Array) -> Array:
    """Return int labels in a signed dtype that holds them: a uint8 156 is -100 to some."""
    dtype = ops.dtype(labels)
    if dtype in ("int32", "int64"):
        return labels
    return ops.astype(labels, "int64" if dtype == "uint64" else "int32")


def check_logits(function: str, argument: str, ops: Backend, x: Array) -> None:
    """Raise unless ``x`` has two axes and a float dtype."""
    if len(x.shape) != 2:
        raise ValueError(
            f"{function}: {argument} needs two axes (batch, classes); got shape "
            f"{tuple(x.shape)}. Flatten positions into rows first"
        )
    if "float" not in ops.dtype(x):
        raise TypeError(
            f"{function}: {argument} needs a float dtype; got {ops.dtype(x)}. "
            "Pass logits, not labels or token ids"
        )


def checked_pair(
    function: str, ops: Backend, student_logits: Any, teacher_logits: Any
) -> tuple[Array, Array]:
    """Return both logits, converted; raise unless they are float rows of the same classes."""
    student = ops.asarray(student_logits, teacher_logits if ops.is_tensor(teacher_logits) else None)
    teacher = ops.asarray(teacher_logits, student)
    for argument, x in (("student_logits", student), ("teacher_logits", teacher)):
        check_logits(function, argument, ops, x)
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    if ours[1] is None or _differ(ours[1], theirs[1]):
        raise ValueError(
            f"{function}: student_logits and teacher_logits need the same number of classes, "
            f"known when traced; got {ours} and {theirs}. Map the teacher's classes first: "
            "mcld_core.select_classes"
        )
    if ours[1] == 0:
        raise ValueError(f"{function}: student_logits needs at least one class; got shape {ours}")
    if _differ(ours[0], theirs[0]):
        raise ValueError(
            f"{function}: student_logits and teacher_logits need the same batch size; "
            f"got {ours} and {theirs}. More teacher rows to contrast with go into keys="
        )
    check_device(function, ops, "teacher_logits", teacher, student)
    return student, teacher


def _checked_weight(
    function: str,
    ops: Backend,
    sample_weight: Any,
    kept: Array | None,
    logits: Array,
    dtype: str,
    argument: str = "student_logits",
) -> Array:
    weight = ops.asarray(sample_weight, logits)
    check_rows(function, "sample_weight", weight, logits.shape[0])
    check_device(function, ops, "sample_weight", weight, logits, argument)
    values = ops.host_values(weight)
    mask = None if kept is None else ops.host_values(kept)
    if values is not None and (kept is None or mask is not None):
        bad = ~((values >= 0) & np.isfinite(values))
        bad = bad if mask is None else bad & mask
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{function}: sample_weight needs finite numbers ≥ 0; got {values[row]} in row "
                f"{row}"
            )
    weight = ops.stop_gradient(ops.astype(weight, dtype))
    return weight if kept is None else ops.where(kept, weight, 0.0)


def _differ(ours: Any, theirs: Any) -> bool:
    """Whether two sizes differ; an unknown size (TensorFlow's None) differs from nothing."""
    return ours is not None and theirs is not None and ours != theirs

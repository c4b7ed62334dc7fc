"""The rows of a call, checked and converted: logits, labels, masks and weights; their reduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mcld_core.arguments.checks import Checks, plain_number, range_text
from mcld_core.arguments.rows import (
    Batch,
    TeacherBatch,
    both_kept,
    class_labels,
    fits,
    keep_rows,
    ratio,
    sizes_differ,
    wide_dtype,
)
from mcld_core.backends import Backend, backend_for
from mcld_core.typing import Array, Bool, Float, Int, Reduction, Scalar

MAP_CLASSES = "Map the teacher's classes first: mcld_core.select_classes"
"""What to do about class spaces that differ."""
EACH_ROW = "one entry a row of the logits"


class Arguments(Checks):
    """The arguments of one call; its backend is that of the values.

    Args:
        function: the name that errors give.
        values: what decides the backend: the tensors among them; None counts for nothing.
    """

    names: tuple[str, ...] = ("student_logits", "teacher_logits")
    """What a call names its two sides; all other arguments are beside the first."""
    columns: tuple[str, str] = ("number of classes", MAP_CLASSES)
    """What both sides have alike, and what to do where they do not."""

    def __init__(self, function: str, *values: Any) -> None:
        self.function, self.ops = function, backend_for(function, *values)
        self.like: Array | None = None
        for x in values:
            if self.like is None and x is not None and self.ops.is_tensor(x):
                self.like = x
        """The first tensor of the values: a plain array becomes a tensor on its device."""

    def array(self, name: str, value: Any, like: Array | None = None) -> Array:
        """Return an array of real numbers or bools, converted; raise for what is not one."""
        needs = f"{self.function}: {name} needs an array of numbers"
        is_text = isinstance(value, (str, bytes))
        is_array = hasattr(value, "shape") or isinstance(value, (Sequence, int, float))
        if is_text or not is_array or hasattr(value, "_fields"):  # such as TopKLogits
            came = repr(value) if value is None or is_text else type(value).__name__
            raise TypeError(f"{needs}; got {came}")
        try:
            found = self.ops.asarray(value, like)
        except (TypeError, ValueError, RuntimeError) as error:  # of torch for a list with a None
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{needs}: {error}") from error
        if getattr(found, "is_sparse", False):  # of torch
            raise TypeError(f"{needs}, a dense one; got a sparse tensor")
        dtype = self.ops.dtype(found)
        if not dtype.startswith(("float", "bfloat", "int", "uint", "bool")):
            raise TypeError(f"{needs}, real ones; got dtype {dtype}")
        return found

    def shaped(
        self, name: str, value: Any, like: Array, shape: Any = None, each: str = EACH_ROW
    ) -> Array:
        """Return an array, converted; raise for another shape, or another device than ``like``'s.

        A size of None fits any; ``each`` says what an entry stands for. By default it is a row of
        ``like``.
        """
        found = self.array(name, value, like)
        shape = like.shape[:1] if shape is None else shape
        if not fits(found.shape, shape):
            raise self.wrong(f"{name} needs shape {tuple(shape)}, {each}", tuple(found.shape))
        self.device(name, found, like)
        return found

    def device(self, name: str, x: Array, other: Array, other_name: str = "") -> None:
        """Raise ValueError where two tensors lie on different devices."""
        if self.ops.checks_devices and x.device != other.device:
            raise ValueError(
                f"{self.function}: {name} is on {x.device} and {other_name or self.names[0]} on "
                f"{other.device}; move one of them (no tensor is moved for you)"
            )

    def mask(
        self,
        name: str,
        mask: Any,
        like: Array,
        shape: Any = None,
        each: str = EACH_ROW,
        meaning: str = "keep",
    ) -> Bool[Array, "..."] | None:
        """Return a mask, checked as `shaped`, None for None; raise for another dtype than bool."""
        if mask is None:
            return None
        found = self.shaped(name, mask, like, shape, each)
        dtype = self.ops.dtype(found)
        if dtype != "bool":
            raise self.wrong_type(f"{name} needs dtype bool (True = {meaning})", dtype)
        return found

    def weight(
        self, sample_weight: Any, kept: Array | None, like: Array, dtype: str
    ) -> Float[Array, " rows"] | None:
        """Return ``sample_weight``, which is ≥ 0, times kept; None where neither is given."""
        ops = self.ops
        if sample_weight is None:
            return None if kept is None else ops.astype(kept, dtype)
        weight = self.shaped("sample_weight", sample_weight, like)
        self.finite("sample_weight", weight, kept, minimum=0.0)
        return keep_rows(ops, ops.stop_gradient(ops.astype(weight, dtype)), kept)

    def finite(
        self,
        name: str,
        x: Float[Array, " rows"],
        kept: Bool[Array, " rows"] | None,
        minimum: float | None = None,
        of: str = "row",
    ) -> None:
        """Raise for a number of a kept row that is not finite or too small, if it can be read."""
        values, mask = self.readable(x, kept)
        if values is None:
            return
        least = -np.inf if minimum is None else minimum
        bad = mask & ~(np.isfinite(values) & (values >= least))
        if bad.any():
            row, bound = int(np.argmax(bad)), range_text(minimum, None, None)
            raise self.wrong(f"{name} needs finite numbers{bound}", f"{values[row]} in {of} {row}")

    def ids(
        self, name: str, ids: Any, like: Array, shape: Any = None, each: str = EACH_ROW
    ) -> Int[Array, "..."]:
        """Return ids or places, checked as `shaped`: signed, int64 where they come so, else int32.

        They are only compared.
        """
        found = self.shaped(name, ids, like, shape, each)
        dtype = self.ops.dtype(found)
        if not dtype.startswith(("int", "uint")):
            raise self.wrong_type(f"{name} needs an integer dtype", dtype)
        wide = dtype in ("int64", "uint32", "uint64")
        return self.ops.astype(found, "int64" if wide else "int32")

    def scalar(
        self, name: str, value: Scalar, like: Array, dtype: str, **limits: float
    ) -> Float[Array, ""]:
        """Return one number as ``dtype`` on ``like``'s device, within the limits of `number`.

        It is ≥ 0 where they do not say ``above``. An array that cannot be read is not checked.
        """
        limits = limits if "above" in limits else {"minimum": 0.0, **limits}
        self.number(name, value, **limits)
        array = self.ops.asarray(plain_number(value), like)
        if not isinstance(value, (int, float)):
            values = self.ops.host_values(array)
            if values is not None:
                self.number(name, float(values), **limits)
        return self.ops.astype(array, dtype)

    def sums(self, like: Any, *shapes: tuple[int, ...]) -> list[Array]:
        """Return sums of nothing: zeros beside ``like``, float64 where it is."""
        ops, dtype = self.ops, "float32"
        if like is not None:
            dtype = wide_dtype(ops.dtype(self.array("like", like)))
        return [ops.asarray(np.zeros(shape, dtype), like) for shape in shapes]

    # labels

    def label_shape(self, name: str, labels: Array, rows: Any, classes: int | None) -> None:
        """Raise where shape and dtype are those of neither int nor soft labels."""
        shape, dtype = tuple(labels.shape), self.ops.dtype(labels)
        width = "any" if classes is None else classes
        if len(shape) == 1 and not dtype.startswith(("int", "uint")):
            soft = f"Soft labels have shape (rows, classes) = ({rows}, {width})"
            raise self.wrong_type(f"{name} of shape {shape} need an integer dtype", dtype, soft)
        wanted = (rows,) if len(shape) == 1 else (rows, classes)
        if shape != wanted and not fits(shape, wanted):
            needs = f"{name} need shape ({rows},) for int labels"
            raise self.wrong(f"{needs} or ({rows}, {width}) for soft labels", shape)

    def labels(
        self,
        name: str,
        labels: Any,
        logits: Array,
        dtype: str | None,
        kept: Array | None,
        ignore_index: int,
        compared: bool = False,
    ) -> tuple[Array, Array | None]:
        """Return the labels of logits, and which rows are not ``ignore_index``; None: all are.

        Int labels become int32, -1 where they name no class; soft labels take ``dtype``, or with
        None float64 where they or the logits are. Labels that are ``compared`` and nothing else
        may be any ids ≥ 0, which are `ids`, or soft ones of any width.
        """
        ops = self.ops
        rows, classes = logits.shape[0], None if compared else logits.shape[1]
        labels = self.array(name, labels, logits)
        self.label_shape(name, labels, rows, classes)
        self.device(name, labels, logits)
        all_named = self.label_values(name, labels, kept, classes, ignore_index)
        if len(labels.shape) == 2:
            dtype = dtype or wide_dtype(ops.dtype(logits), ops.dtype(labels))
            return ops.stop_gradient(ops.astype(labels, dtype)), None
        if classes is None:
            labels = self.ids(name, labels, logits)
            return ops.where(labels >= 0, labels, -1), labels != ignore_index
        if all_named and not 0 <= ignore_index < classes:
            return ops.astype(labels, "int32"), None
        return class_labels(ops, labels, classes, ignore_index)

    def label_values(
        self, name: str, labels: Array, kept: Array | None, classes: int | None, ignore_index: int
    ) -> bool:
        """Raise ValueError for labels that name no class, where their values can be read.

        With ``classes=None`` every int ≥ 0 names one.

        Returns whether every row is seen to have an int label of a class.
        """
        values = self.ops.host_values(labels)
        if values is None or values.size == 0:
            return False
        if values.ndim == 1:
            end = np.inf if classes is None else classes
            if values.min() >= 0 and values.max() < end:
                return True
            bad = ((values < 0) | (values >= end)) & (values != ignore_index)
            bound = "≥ 0" if classes is None else f"in 0 … {classes - 1}"
            wrong = f"needs labels {bound} or ignore_index {ignore_index}"
        else:
            values = np.asarray(values, "float64")
            total = values.sum(1)
            bad = ~((values >= 0).all(1) & (np.abs(total - 1.0) <= 1e-2))
            wrong = "needs soft labels that are ≥ 0 and sum to 1 in each row"
        _, mask = self.readable(labels, kept)
        bad = False if mask is None else bad & mask
        if np.any(bad):
            row = int(np.argmax(bad))
            raise self.wrong(f"{name} {wrong}", f"{values[row]} in row {row}")
        return False

    def readable(self, x: Array, kept: Bool[Array, " rows"] | None) -> tuple[Any, Any]:
        """Return the values of rows and which of them count; None where they cannot be read."""
        values = self.ops.host_values(x)
        if values is None or kept is None:
            return values, None if values is None else np.ones(values.shape[:1], "bool")
        mask = self.ops.host_values(kept)
        return (None, None) if mask is None else (values, mask)

    def none_if_all_kept(
        self, kept: Bool[Array, " rows"] | None, counts: Bool[Array, " rows"] | None = None
    ) -> Bool[Array, " rows"] | None:
        """Return the rows that both masks keep; None where all are seen to be: it saves masking."""
        kept = both_kept(kept, counts)
        values = None if kept is None else self.ops.host_values(kept)
        return None if values is not None and values.all() else kept

    # the rows of a call

    def logits(self, name: str, x: Array) -> None:
        """Raise unless ``x`` has two axes, of which the classes are known, and a float dtype."""
        if len(x.shape) != 2:
            came, cure = f"shape {tuple(x.shape)}", "Flatten positions into rows first"
            raise self.wrong(f"{name} needs two axes (batch, classes)", came, cure)
        if "float" not in self.ops.dtype(x):
            cure = "Pass logits, not labels or token ids"
            raise self.wrong_type(f"{name} needs a float dtype", self.ops.dtype(x), cure)
        if not x.shape[1]:
            needs = f"{name} needs at least one class, their number known when traced"
            raise self.wrong(needs, f"shape {tuple(x.shape)}")

    def tensors(self, student_logits: Any, teacher_logits: Any) -> tuple[Array, Array]:
        """Convert both logits, each beside the other where only that one is a tensor."""
        student = self.array(self.names[0], student_logits, self.like)
        return student, self.array(self.names[1], teacher_logits, student)

    def pair(self, student_logits: Any, teacher_logits: Any) -> tuple[Array, Array]:
        """Return both logits, converted; raise unless they are float rows of the same classes."""
        student, teacher = self.tensors(student_logits, teacher_logits)
        self.logits(self.names[0], student)
        self.logits(self.names[1], teacher)
        ours, theirs = tuple(student.shape), tuple(teacher.shape)
        if ours != theirs:  # what TensorFlow does not know fits
            both, came = f"{' and '.join(self.names)} need the same", f"{ours} and {theirs}"
            if ours[1] != theirs[1]:
                raise self.wrong(f"{both} {self.columns[0]}", came, self.columns[1])
            if sizes_differ(ours[0], theirs[0]):
                cure = "More teacher rows to contrast with go into keys="
                raise self.wrong(f"{both} batch size", came, cure)
        self.device(self.names[1], teacher, student)
        return student, teacher

    def batch(
        self, rows: tuple[Any, Any, Any, Any, Any], ignore_index: int | None, compared: bool = False
    ) -> Batch:
        """Return the arguments that all losses share, checked and converted.

        ``rows`` are student logits, teacher logits, labels, sample weight and ``where``. With
        ``ignore_index=None`` the loss needs no labels, and has none. ``compared`` labels may be
        any ids.
        """
        ops, (student_logits, teacher_logits, labels, sample_weight, where) = self.ops, rows
        student, teacher = self.pair(student_logits, teacher_logits)
        if ignore_index is not None and type(ignore_index) is not int:
            self.integer("ignore_index", plain_number(ignore_index))
        kept = None if where is None else self.mask("where", where, student)
        dtype = "float64" if ops.dtype(student) == "float64" else "float32"
        teacher = ops.stop_gradient(teacher)
        if ignore_index is None:
            labels = None
        elif labels is None:
            labels = ops.argmax(teacher, 1)
        else:
            labels, counts = self.labels(
                "labels", labels, student, dtype, kept, ignore_index, compared
            )
            if labels.ndim == 2:
                labels = keep_rows(ops, labels, kept)
            elif counts is not None:
                kept = self.none_if_all_kept(kept, counts)
        weight = None
        if sample_weight is not None or kept is not None:
            weight = self.weight(sample_weight, kept, student, dtype)
        return Batch(student, teacher, dtype, labels, kept, weight)

    def teacher_batch(
        self,
        logits: Float[Array, "batch classes"],
        beside: tuple[Any, Any, Any],
        ignore_index: int,
        name: str = "teacher_logits",
    ) -> TeacherBatch:
        """Return a teacher's rows with what comes beside them: labels, sample weight, ``where``."""
        ops, (labels, sample_weight, where) = self.ops, beside
        self.names = (name,)
        self.logits(name, logits)
        self.integer("ignore_index", plain_number(ignore_index))
        kept = self.mask("where", where, logits)
        if labels is not None:
            labels, counts = self.labels("labels", labels, logits, None, kept, ignore_index)
            kept = both_kept(kept, counts)
        if kept is None:
            kept = ops.arange(ops.size(logits, 0), logits) >= 0
        dtype = wide_dtype(ops.dtype(logits))
        if sample_weight is not None:
            sample_weight = self.array("sample_weight", sample_weight, logits)
            dtype = wide_dtype(dtype, ops.dtype(sample_weight))
        weight = self.weight(sample_weight, kept, logits, dtype)
        return TeacherBatch(ops.stop_gradient(logits), labels, kept, weight)


def reduce_rows(
    ops: Backend,
    values: Float[Array, " batch"],
    weight: Float[Array, " batch"] | None,
    reduction: Reduction,
    normalizer: Array | None = None,
) -> Array:
    """Reduce one value a row: v L ("none"), Σ v L ("sum"), Σ v L / Σ v ("mean"; 0 if none)."""
    if weight is not None:
        values = values * weight
    if reduction == "none":
        return values
    total = ops.sum(values, None)
    if reduction == "sum":
        return total
    dtype = ops.dtype(values)
    if normalizer is None:
        whole = whole_weight(ops, values, weight, dtype)
    else:
        whole = ops.astype(ops.asarray(normalizer, values), dtype)
    return total / whole if isinstance(whole, int) else ratio(ops, total, whole)


def whole_weight(ops: Backend, rows: Array, weight: Array | None, dtype: str) -> Any:
    """Return the sum of the weights; None: the number of the rows, an int ≥ 1 where it is known."""
    if weight is None:
        count = ops.size(rows, 0)
        if isinstance(count, int):
            return max(count, 1)
        weight = ops.arange(count, rows) >= 0  # the size of a traced batch is not an array
    return ops.sum(ops.astype(weight, dtype), None)

"""The rows of a call, checked and converted: logits, labels, masks and weights; their reduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mcld_core.arguments.checks import Checks, plain_number, range_text
from mcld_core.arguments.rows import (
    Batch,
    both_kept,
    class_labels,
    fits,
    keep_rows,
    ratio,
    sizes_differ,
    wide_dtype,
)
from mcld_core.backends import Backend, backend_for
from mcld_core.typing import Array, Bool, Float, Int, Reduction

MAP_CLASSES = "Map the teacher's classes first: mcld_core.select_classes"
"""What to do about class spaces that differ."""


class ArrayArguments(Checks):
    """The arrays of one call; its backend is that of the values.

    Args:
        function: the name that errors give.
        values: what decides the backend: the tensors among them; None counts for nothing.
    """

    names = "student_logits", "teacher_logits"
    """What a call names its two sides."""

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

    # one entry a row

    def vector(self, name: str, x: Array, rows: Any) -> None:
        """Raise ValueError unless ``x`` has one axis with one entry a row."""
        shape = tuple(x.shape)
        if len(shape) != 1 or sizes_differ(shape[0], rows):
            raise self.wrong(f"{name} needs shape ({rows},), one entry a row of the logits", shape)

    def shaped(self, name: str, value: Any, like: Array, shape: Any, each: str) -> Array:
        """Return an array, converted; raise for another shape, or another device than ``like``'s.

        A size of None fits any; ``each`` says what an entry stands for.
        """
        found = self.array(name, value, like)
        self.device(name, found, like)
        if not fits(found.shape, shape):
            raise self.wrong(f"{name} needs shape {tuple(shape)}, {each}", tuple(found.shape))
        return found

    def device(self, name: str, x: Array, other: Array, other_name: str = "student_logits") -> None:
        """Raise ValueError where two tensors lie on different devices."""
        there = self.ops.device(x)
        here = None if there is None else self.ops.device(other)
        if here != there:
            raise ValueError(
                f"{self.function}: {name} is on {there} and {other_name} on {here}; "
                "move one of them (no tensor is moved for you)"
            )

    def mask(
        self, name: str, where: Any, like: Array, like_name: str = "student_logits"
    ) -> Bool[Array, " rows"] | None:
        """Return a mask of rows, converted, or None; raise for another shape, dtype or device."""
        if where is None:
            return None
        kept = self.array(name, where, like)
        self.vector(name, kept, like.shape[0])
        if self.ops.dtype(kept) != "bool":
            raise self.wrong_type(f"{name} needs dtype bool (True = keep)", self.ops.dtype(kept))
        self.device(name, kept, like, like_name)
        return kept

    def pairs(self, pairs: Any, like: Array, keys: Any) -> Bool[Array, "batch keys"]:
        """Return who is compared with whom; raise for another shape, dtype or device."""
        each = "(batch, keys), one entry for each row and key"
        found = self.shaped("pairs", pairs, like, (like.shape[0], keys), each)
        if self.ops.dtype(found) != "bool":
            needs = "pairs needs dtype bool (True = the row is compared with the key)"
            raise self.wrong_type(needs, self.ops.dtype(found))
        return found

    def weight(
        self,
        sample_weight: Any,
        kept: Array | None,
        like: Array,
        dtype: str,
        like_name: str = "student_logits",
    ) -> Float[Array, " rows"] | None:
        """Return ``sample_weight``, which is ≥ 0, times kept; None where neither is given."""
        ops = self.ops
        if sample_weight is None:
            return None if kept is None else ops.astype(kept, dtype)
        weight = self.array("sample_weight", sample_weight, like)
        self.vector("sample_weight", weight, like.shape[0])
        self.device("sample_weight", weight, like, like_name)
        self.finite("sample_weight", weight, kept, minimum=0.0)
        weight = ops.stop_gradient(ops.astype(weight, dtype))
        return weight if kept is None else ops.where(kept, weight, 0.0)

    def finite(
        self,
        name: str,
        x: Float[Array, " rows"],
        kept: Bool[Array, " rows"] | None,
        *,
        minimum: float | None = None,
    ) -> None:
        """Raise for a kept row's number that is not finite or too small, where it can be read."""
        values, mask = self.readable(x, kept)
        if values is None:
            return
        least = -np.inf if minimum is None else minimum
        bad = mask & ~(np.isfinite(values) & (values >= least))
        if bad.any():
            row, bound = int(np.argmax(bad)), range_text(minimum, None, None)
            raise self.wrong(f"{name} needs finite numbers{bound}", f"{values[row]} in row {row}")

    def ids(
        self,
        name: str,
        ids: Any,
        logits: Array,
        like_name: str = "student_logits",
        *,
        single: bool = False,
    ) -> Int[Array, " batch"]:
        """Return ids or places, one a row, signed: int64 where they come so, else int32.

        They are only compared. ``single``: one number for all rows will do.
        """
        ops = self.ops
        found = self.array(name, ids, logits)
        if not single or len(found.shape):
            self.vector(name, found, logits.shape[0])
        self.device(name, found, logits, like_name)
        dtype = ops.dtype(found)
        if not dtype.startswith(("int", "uint")):
            raise self.wrong_type(f"{name} needs an integer dtype", dtype)
        return ops.astype(found, "int64" if dtype in ("int64", "uint32", "uint64") else "int32")

    # labels

    def label_kind(self, name: str, labels: Array, rows: Any, classes: int | None) -> str:
        """Return ``"int"`` or ``"soft"``; raise where shape and dtype are neither."""
        shape, dtype = tuple(labels.shape), self.ops.dtype(labels)
        width = "any" if classes is None else classes
        is_integer = dtype.startswith(("int", "uint"))
        if len(shape) == 1:
            if not is_integer:
                soft = f"Soft labels have shape (rows, classes) = ({rows}, {width})"
                raise self.wrong_type(f"{name} of shape {shape} need an integer dtype", dtype, soft)
            if shape != (rows,):
                self.vector(name, labels, rows)
            return "int"
        if not fits(shape, (rows, classes)):
            needs = f"{name} need shape ({rows},) for int labels"
            raise self.wrong(f"{needs} or ({rows}, {width}) for soft labels", shape)
        return "soft"

    def labels(
        self,
        name: str,
        labels: Any,
        logits: Array,
        dtype: str | None,
        kept: Array | None,
        ignore_index: int,
        like_name: str = "student_logits",
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
        kind = self.label_kind(name, labels, rows, classes)
        self.device(name, labels, logits, like_name)
        all_named = self.label_values(name, labels, kept, classes, ignore_index)
        if kind == "soft":
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
            return values, np.True_
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
        """Raise unless ``x`` has two axes and a float dtype."""
        if len(x.shape) != 2:
            came, cure = f"shape {tuple(x.shape)}", "Flatten positions into rows first"
            raise self.wrong(f"{name} needs two axes (batch, classes)", came, cure)
        if "float" not in self.ops.dtype(x):
            cure = "Pass logits, not labels or token ids"
            raise self.wrong_type(f"{name} needs a float dtype", self.ops.dtype(x), cure)

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
        if ours != theirs or not ours[1]:  # what TensorFlow does not know fits
            both, came = f"{' and '.join(self.names)} need the same", f"{ours} and {theirs}"
            if ours[1] is None or sizes_differ(ours[1], theirs[1]):
                raise self.wrong(f"{both} number of classes, known when traced", came, MAP_CLASSES)
            if ours[1] == 0:
                raise self.wrong(f"{self.names[0]} needs at least one class", f"shape {ours}")
            if sizes_differ(ours[0], theirs[0]):
                cure = "More teacher rows to contrast with go into keys="
                raise self.wrong(f"{both} batch size", came, cure)
        self.device(self.names[1], teacher, student, self.names[0])
        return student, teacher

    def batch(
        self,
        rows: tuple[Any, Any, Any, Any, Any],
        ignore_index: int | None,
        compared: bool = False,
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
                "labels", labels, student, dtype, kept, ignore_index, compared=compared
            )
            if labels.ndim == 2:
                labels = keep_rows(ops, labels, kept)
            elif counts is not None:
                kept = self.none_if_all_kept(kept, counts)
        weight = None
        if sample_weight is not None or kept is not None:
            weight = self.weight(sample_weight, kept, student, dtype)
        return Batch(student, teacher, dtype, labels, kept, weight)


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
    if normalizer is None and weight is None:
        count = ops.size(values, 0)
        if isinstance(count, int):
            return total / max(count, 1)
        weight = ops.arange(count, values) >= 0  # the size of a traced batch is not an array
        weight = ops.astype(weight, ops.dtype(values))
    if normalizer is None:
        normalizer = ops.sum(weight, None)
    return ratio(ops, total, ops.astype(ops.asarray(normalizer, values), ops.dtype(values)))

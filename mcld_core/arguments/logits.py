"""The logits of a call with what comes beside them: what each loss does first."""

from __future__ import annotations

from typing import Any

from mcld_core.arguments.arrays import ArrayArguments
from mcld_core.arguments.checks import plain_number
from mcld_core.arguments.rows import Batch, TeacherBatch, both_kept, differ, keep_rows, wide_dtype
from mcld_core.typing import Array, Float


class Arguments(ArrayArguments):
    """The arguments of one call, checked and converted; made as `ArrayArguments`."""

    def logits(self, name: str, x: Array) -> None:
        """Raise unless ``x`` has two axes and a float dtype."""
        if len(x.shape) != 2:
            raise ValueError(
                f"{self.function}: {name} needs two axes (batch, classes); got shape "
                f"{tuple(x.shape)}. Flatten positions into rows first"
            )
        if "float" not in self.ops.dtype(x):
            raise TypeError(
                f"{self.function}: {name} needs a float dtype; got {self.ops.dtype(x)}. "
                "Pass logits, not labels or token ids"
            )

    def rows_beside(self, stored: Array, what: str, teacher_logits: Any) -> Array:
        """Return teacher logits, converted; raise unless they fit the rows that are stored."""
        rows = self.array("teacher_logits", teacher_logits, stored)
        self.logits("teacher_logits", rows)
        if rows.shape[1] != stored.shape[1]:
            raise ValueError(
                f"{self.function}: teacher_logits need shape (batch, {stored.shape[1]}); got "
                f"{tuple(rows.shape)}. Map the teacher's classes first: mcld_core.select_classes"
            )
        self.device("teacher_logits", rows, stored, what)
        return rows

    def tensors(self, student_logits: Any, teacher_logits: Any) -> tuple[Array, Array]:
        """Convert both logits, each beside the other where only that one is a tensor."""
        ops = self.ops
        like = teacher_logits if ops.is_tensor(teacher_logits) else None
        student = self.array("student_logits", student_logits, like)
        return student, self.array("teacher_logits", teacher_logits, student)

    def pair(self, student_logits: Any, teacher_logits: Any) -> tuple[Array, Array]:
        """Return both logits, converted; raise unless they are float rows of the same classes."""
        student, teacher = self.tensors(student_logits, teacher_logits)
        self.logits("student_logits", student)
        self.logits("teacher_logits", teacher)
        ours, theirs = tuple(student.shape), tuple(teacher.shape)
        if ours[1] is None or differ(ours[1], theirs[1]):
            raise ValueError(
                f"{self.function}: student_logits and teacher_logits need the same number of "
                f"classes, known when traced; got {ours} and {theirs}. Map the teacher's classes "
                "first: mcld_core.select_classes"
            )
        if ours[1] == 0:
            raise ValueError(
                f"{self.function}: student_logits needs at least one class; got shape {ours}"
            )
        if differ(ours[0], theirs[0]):
            raise ValueError(
                f"{self.function}: student_logits and teacher_logits need the same batch size; "
                f"got {ours} and {theirs}. More teacher rows to contrast with go into keys="
            )
        self.device("teacher_logits", teacher, student)
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
        if ignore_index is not None:
            self.integer("ignore_index", plain_number(ignore_index))
        kept = self.mask("where", where, student)
        dtype = wide_dtype(ops.dtype(student))
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
                kept = self.unless_all(kept, counts)
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
        self.logits(name, logits)
        self.integer("ignore_index", plain_number(ignore_index))
        kept = self.mask("where", where, logits, name)
        if labels is not None:
            labels, counts = self.labels("labels", labels, logits, None, kept, ignore_index, name)
            kept = both_kept(kept, counts)
        if kept is None:
            kept = ops.arange(ops.size(logits, 0), logits) >= 0
        dtype = wide_dtype(ops.dtype(logits))
        if sample_weight is not None:
            sample_weight = self.array("sample_weight", sample_weight, logits)
            dtype = wide_dtype(dtype, ops.dtype(sample_weight))
        weight = self.weight(sample_weight, kept, logits, dtype, name)
        return TeacherBatch(ops.stop_gradient(logits), labels, kept, weight)

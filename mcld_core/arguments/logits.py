"""What else a call brings, checked and converted: numbers, a class prior, a teacher's rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcld_core.arguments.arrays import MAP_CLASSES, ArrayArguments
from mcld_core.arguments.checks import plain_number
from mcld_core.arguments.rows import TeacherBatch, both_kept, wide_dtype
from mcld_core.typing import Array, Float, Scalar


class Arguments(ArrayArguments):
    """The arguments of one call, checked and converted; made as `ArrayArguments`."""

    def scalar(
        self,
        name: str,
        value: Scalar,
        like: Array,
        dtype: str,
        *,
        above: float | None = None,
        maximum: float | None = None,
    ) -> Float[Array, ""]:
        """Return one number ≥ 0 (or above ``above``) as ``dtype`` on ``like``'s device.

        Raises where it is not in its range; an array that cannot be read is not checked.
        """
        limits = {"minimum": 0.0 if above is None else None, "above": above, "maximum": maximum}
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

    def log_prior(
        self, class_prior: Any, classes: int, like: Array, dtype: str
    ) -> Float[Array, " classes"]:
        """Return ``log π`` of counts or probabilities; a class of none counts half the least."""
        ops, each = self.ops, "one count or probability a class"
        prior = self.shaped("class_prior", class_prior, like, (classes,), each)
        prior = ops.stop_gradient(ops.astype(prior, dtype))
        values = ops.host_values(prior)
        if values is not None:
            bad = ~((values >= 0) & np.isfinite(values))
            if bad.any():
                came = f"{values[np.argmax(bad)]} for class {np.argmax(bad)}"
                raise self.wrong("class_prior needs finite numbers ≥ 0", came)
            if not (values > 0).any():
                cure = "Pass the counts of the training labels"
                raise self.wrong("class_prior needs a positive entry", "zeros alone", cure)
        present = prior > 0
        least = -ops.max(ops.where(present, -prior, -float(np.finfo(dtype).max)), 0)
        counts = ops.where(present, prior, 0.5 * least)
        return ops.log(counts) - ops.log(ops.sum(counts, None))

    def rows_beside(self, stored: Array, what: str, teacher_logits: Any) -> Array:
        """Return teacher logits, converted; raise unless they fit the rows that are stored."""
        rows = self.array("teacher_logits", teacher_logits, stored)
        self.logits("teacher_logits", rows)
        if rows.shape[1] != stored.shape[1]:
            needs = f"teacher_logits need shape (batch, {stored.shape[1]})"
            raise self.wrong(needs, tuple(rows.shape), MAP_CLASSES)
        self.device("teacher_logits", rows, stored, what)
        return rows

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

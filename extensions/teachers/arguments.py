"""A teacher's rows and what is measured on them, checked and converted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcld_core.arguments import Arguments, TeacherBatch, is_number, keep_rows, wide_dtype
from mcld_core.backends import Backend
from mcld_core.extensions._terms import LEAST
from mcld_core.typing import Array, Bool, Float


class TeacherArguments(Arguments):
    """The arguments of one call of the functions of `teachers`."""

    def entries(self, name: str, values: Any, count: int | None = None) -> Sequence[Any]:
        """Return a list with one entry a teacher; raise for another length, or none at all."""
        is_list = hasattr(values, "__len__") and not isinstance(values, (str, dict))
        is_list = is_list and getattr(values, "shape", None) != ()
        found = len(values) if is_list else values
        if not is_list or not found or found != (count or found):
            wanted = "one at least" if count is None else count
            raise self.wrong(f"{name} needs a list, one entry a teacher, {wanted}", repr(found))
        return values

    def labelled_teacher(
        self, logits: Any, labels: Any, where: Any, ignore_index: int, dtype: str | None = None
    ) -> TeacherBatch:
        """Return the rows of `teacher` with labels, -1 where they name no class.

        None raises: measured against its own arg max a teacher is always right.
        """
        self.required_labels(labels)
        return self.teacher("teacher_logits", logits, where, dtype, labels, ignore_index)

    def required_labels(self, labels: Any) -> None:
        """Raise TypeError for None."""
        if labels is None:
            needs = "labels needs (batch,) int or (batch, classes) soft labels"
            cure = "Pass the true labels: the teacher's own arg max cannot stand for them here"
            raise self.wrong_type(needs, "None", cure)

    def teacher(
        self,
        name: str,
        logits: Any,
        where: Any = None,
        dtype: str | None = None,
        labels: Any = None,
        ignore_index: int = -100,
    ) -> TeacherBatch:
        """Return the rows of one teacher, in ``dtype`` (None: its own, widened).

        The logits are finite below (-inf is `LEAST`), 0 in rows that do not count, and have no
        gradient.
        """
        ops = self.ops
        given = self.array(name, logits, self.like)
        batch = self.teacher_batch(given, (labels, None, where), ignore_index, name)
        if not given.shape[1]:
            needs = f"{name} needs at least one class, their number known when traced"
            raise self.wrong(needs, f"shape {tuple(given.shape)}")
        if self.like is not None:
            self.device(name, given, self.like, "another argument")
        dtype = wide_dtype(ops.dtype(given)) if dtype is None else dtype
        rows = keep_rows(ops, ops.astype(batch.logits, dtype), batch.kept)
        labels = batch.labels
        if labels is not None and labels.ndim == 2:
            labels = keep_rows(ops, ops.astype(labels, dtype), batch.kept)
        kept = ops.astype(batch.kept, dtype)
        return TeacherBatch(ops.at_least(rows, LEAST), labels, batch.kept, kept)

    def one_a_row(
        self,
        name: str,
        value: Any,
        kept: Bool[Array, " batch"],
        dtype: str,
        *,
        minimum: float | None = None,
    ) -> Float[Array, " batch"]:
        """Return (batch,) finite numbers, or one for all rows, 0 in rows that do not count."""
        ops = self.ops
        numbers = self.array(name, value, kept)
        if not len(numbers.shape):
            self.number(name, value if is_number(value) else numbers, minimum=minimum)
            numbers = ops.astype(numbers, dtype) + 0.0 * ops.astype(kept, dtype)
        numbers = self.shaped(name, numbers, kept)
        self.finite(name, numbers, kept, minimum=minimum)
        return ops.where(kept, ops.stop_gradient(ops.astype(numbers, dtype)), 0.0)


def clip01(ops: Backend, x: Array) -> Array:
    """Return x limited to 0 … 1."""
    return ops.minimum(ops.maximum(x, 0.0), 1.0)


def log_sum(ops: Backend, logs: Sequence[Array]) -> Array:
    """Return the logarithm of the sum of numbers by their logarithms."""
    return ops.logsumexp(ops.concat([x[None] for x in logs]), 0)

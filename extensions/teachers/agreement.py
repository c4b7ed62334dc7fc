"""How often teachers choose the same class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mcld_core.arguments import ratio, wide_dtype
from mcld_core.backends import backend_for
from mcld_core.extensions.teachers.arguments import TeacherArguments
from mcld_core.typing import Array, Bool, Float, Logits, Scalar


class TeacherAgreement(NamedTuple):
    """On how many rows each two teachers had the same arg max: running, mergeable, a pytree.

    Low agreement says that an ensemble of them has something to average; it needs no labels. Like
    the fields of `TeacherQuality` these are sums: they `merge` by addition (an all-reduce of the
    fields merges processes), ``agreement._asdict()`` goes into a checkpoint and
    ``TeacherAgreement(**saved)`` restores it. Float32, exact up to 2^24 rows.

    Args:
        rows: sum of the rows seen.
        same: (teachers, teachers) of those, the rows on which both have the same arg max.

    Example:
        >>> import numpy as np
        >>> first, second = np.eye(4), np.eye(4)[[0, 1, 2, 2]]
        >>> found = TeacherAgreement.empty(2).update([first, second]).update([first, first])
        >>> float(found.share[0, 1])
        0.875
    """

    rows: Float[Array, ""]
    same: Float[Array, "teachers teachers"]

    @classmethod
    def empty(cls, teachers: int, *, like: Array | None = None) -> TeacherAgreement:
        """Return the agreement of teachers of which nothing was seen.

        Args:
            teachers: how many.
            like: an array whose framework and device the sums take, and float64 if it has that.

        Raises:
            ValueError, TypeError: a number of teachers that is not an int ≥ 1.
        """
        arguments = TeacherArguments("TeacherAgreement.empty", like)
        arguments.integer("teachers", teachers, minimum=1)
        return cls(*arguments.sums(like, (), (teachers, teachers)))

    def update(
        self,
        logits_list: Sequence[Logits],
        *,
        where: Bool[Array, " batch"] | None = None,
        decay: Scalar = 1.0,
    ) -> TeacherAgreement:
        """Return the agreement with more rows counted; the old sums are first times ``decay``.

        Args:
            logits_list: one (batch, classes) array a teacher, all of one shape.
            where: (batch,) bool, True = keep.
            decay: in 0 … 1. With 1 all rows count alike; with 0.99 the sums remember about the
                last 100 batches.

        Raises:
            ValueError, TypeError: another number of teachers, or shapes, dtypes or devices that
                do not fit.
        """
        function = "TeacherAgreement.update"
        count = int(self.same.shape[0])
        logits_list = TeacherArguments(function).entries("logits_list", logits_list, count)
        arguments = TeacherArguments(function, *self, *logits_list, where)
        rows, same = (arguments.ops.asarray(x, arguments.like) for x in self)
        dtype = arguments.ops.dtype(same)
        decay = arguments.scalar("decay", decay, same, dtype, maximum=1.0)
        more_rows, more_same = _counts(arguments, logits_list, where, dtype)
        return TeacherAgreement(decay * rows + more_rows, decay * same + more_same)

    def merge(self, other: TeacherAgreement) -> TeacherAgreement:
        """Return the agreement on the rows of both, such as those of two processes.

        Raises:
            ValueError, TypeError: another number of teachers, or what is not an agreement.
        """
        if not isinstance(other, TeacherAgreement):
            raise TypeError(
                "TeacherAgreement.merge: other needs a TeacherAgreement; got "
                f"{type(other).__name__}"
            )
        if tuple(self.same.shape) != tuple(other.same.shape):
            raise ValueError(
                "TeacherAgreement.merge: both need the same teachers; got "
                f"{self.same.shape[0]} and {other.same.shape[0]}"
            )
        return TeacherAgreement(self.rows + other.rows, self.same + other.same)

    @property
    def share(self) -> Float[Array, "teachers teachers"]:
        """The part of the rows on which each two have the same arg max; 0 before any row."""
        return ratio(backend_for("TeacherAgreement", self.rows), self.same, self.rows)


def agreement(
    logits_list: Sequence[Logits],
    *,
    where: Bool[Array, " batch"] | None = None,
) -> Float[Array, "teachers teachers"]:
    """Return the ``share`` of `TeacherAgreement` on one batch, or on a whole validation set.

    Args:
        logits_list: one (batch, classes) array a teacher, all of one shape.
        where: (batch,) bool, True = keep.

    Returns:
        (teachers, teachers), the part of the rows on which each two have the same arg max (0
        where no row is kept); float32, float64 if the first teacher is.

    Raises:
        ValueError, TypeError: no teacher, or shapes, dtypes or devices that do not fit.

    Example:
        >>> import numpy as np
        >>> first, second = np.eye(4), np.eye(4)[[0, 1, 2, 2]]
        >>> float(agreement([first, second])[0, 1])
        0.75
    """
    logits_list = TeacherArguments("agreement").entries("logits_list", logits_list)
    arguments = TeacherArguments("agreement", *logits_list, where)
    first = arguments.array("logits_list[0]", logits_list[0], arguments.like)
    dtype = wide_dtype(arguments.ops.dtype(first))
    return TeacherAgreement(*_counts(arguments, logits_list, where, dtype)).share


def _counts(
    arguments: TeacherArguments, logits_list: Sequence[Logits], where: Any, dtype: str
) -> tuple[Float[Array, ""], Float[Array, "teachers teachers"]]:
    """Return the number of kept rows, and on how many each two have the same arg max."""
    ops = arguments.ops
    teachers = [
        arguments.teacher(f"logits_list[{m}]", x, where, dtype) for m, x in enumerate(logits_list)
    ]
    arguments.same_shape("logits_list", [teacher.logits for teacher in teachers])
    chosen = ops.concat([ops.argmax(teacher.logits, 1)[None, :] for teacher in teachers])
    alike = ops.astype(chosen[:, None, :] == chosen[None, :, :], dtype)
    kept = teachers[0].weight
    return ops.sum(kept, None), ops.sum(alike * kept[None, None, :], 2)

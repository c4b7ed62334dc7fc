"""How good a teacher is: counts against labels, and the numbers that they give."""

from __future__ import annotations

from typing import Any, NamedTuple

from mcld_core.arguments import Checks, TeacherBatch, one_hot, ratio, target_class
from mcld_core.backends import backend_for
from mcld_core.extensions.teachers.arguments import TeacherArguments, clip01
from mcld_core.typing import Array, Bool, Float, Labels, Logits, Scalar


class TeacherQuality(NamedTuple):
    """What a teacher got right, as sums over the rows seen: running, mergeable, a pytree.

    Every field is a sum, so two qualities `merge` by addition (and an all-reduce of the fields
    merges processes). A checkpoint keeps ``quality._asdict()`` and ``TeacherQuality(**saved)``
    restores it. The sums are float32 (float64 where ``like`` is): exact counts up to 2^24 rows;
    ``decay`` in `update` forgets old rows and keeps them small.

    Args:
        rows: (classes,) rows seen, by label.
        correct: (classes,) of those, the rows whose arg max is the label.

    Example:
        >>> import numpy as np
        >>> logits = np.array([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 4.0]])
        >>> quality = TeacherQuality.from_logits(logits, np.array([0, 1, 1, 1]))
        >>> float(quality.accuracy)
        0.75
    """

    rows: Float[Array, " classes"]
    correct: Float[Array, " classes"]

    @classmethod
    def empty(cls, classes: int, *, like: Array | None = None) -> TeacherQuality:
        """Return the quality of a teacher of which nothing was seen: no better than chance.

        Args:
            classes: the width of a row.
            like: an array whose framework and device the sums take, and float64 if it has that.

        Raises:
            ValueError, TypeError: a number of classes that is not an int ≥ 1.
        """
        arguments = TeacherArguments("TeacherQuality.empty", like)
        arguments.integer("classes", classes, minimum=1)
        return cls(*arguments.sums(like, (classes,), (classes,)))

    @classmethod
    def from_logits(
        cls,
        teacher_logits: Logits,
        labels: Labels,
        *,
        where: Bool[Array, " batch"] | None = None,
    ) -> TeacherQuality:
        """Return the quality on a whole validation set: `empty`, then one `update`.

        Raises:
            ValueError, TypeError: as of `update`.
        """
        arguments = TeacherArguments("TeacherQuality.from_logits", teacher_logits, labels, where)
        batch = arguments.labelled_teacher(teacher_logits, labels, where, -100)
        empty = cls.empty(batch.logits.shape[1], like=batch.logits)
        return _counted(arguments, empty, batch)

    def update(
        self,
        teacher_logits: Logits,
        labels: Labels,
        *,
        where: Bool[Array, " batch"] | None = None,
        decay: Scalar = 1.0,
        ignore_index: int = -100,
    ) -> TeacherQuality:
        """Return the quality with more rows counted; the old sums are first times ``decay``.

        Args:
            teacher_logits: (batch, classes), any float dtype.
            labels: (batch,) int, or (batch, classes) soft, whose arg max counts.
            where: (batch,) bool, True = keep.
            decay: in 0 … 1. With 1 all rows count alike; with 0.99 the sums remember about the
                last 100 batches.
            ignore_index: rows with this int label are not counted.

        Raises:
            ValueError, TypeError: shapes, dtypes, devices or labels that do not fit, and labels
                that are None.
        """
        function = "TeacherQuality.update"
        arguments = TeacherArguments(function, self.rows, teacher_logits, labels, where)
        ops = arguments.ops
        old = TeacherQuality(*(ops.asarray(x, arguments.like) for x in self))
        dtype = ops.dtype(old.rows)
        batch = arguments.labelled_teacher(teacher_logits, labels, where, ignore_index, dtype)
        classes = int(old.rows.shape[0])
        if batch.logits.shape[1] != classes:
            needs = f"teacher_logits needs {classes} classes, as this quality counts"
            raise arguments.wrong(needs, f"shape {tuple(batch.logits.shape)}")
        decay = arguments.scalar("decay", decay, old.rows, dtype, maximum=1.0)
        return _counted(arguments, TeacherQuality(*(decay * x for x in old)), batch)

    def merge(self, other: TeacherQuality) -> TeacherQuality:
        """Return the quality on the rows of both, such as those of two processes.

        Raises:
            ValueError, TypeError: other classes, or what is not a quality.
        """
        check_quality("TeacherQuality.merge", "other", other)
        if self.rows.shape[0] != other.rows.shape[0]:
            raise Checks("TeacherQuality.merge").wrong(
                "both need the same classes", f"{self.rows.shape[0]} and {other.rows.shape[0]}"
            )
        return TeacherQuality(self.rows + other.rows, self.correct + other.correct)

    @property
    def accuracy(self) -> Float[Array, ""]:
        """The part of the rows whose arg max is the label; chance (1 / classes) before any row."""
        ops = backend_for("TeacherQuality", self.rows)
        total = ops.sum(self.rows, None)
        accuracy = ratio(ops, ops.sum(self.correct, None), total)
        return ops.where(total > 0, accuracy, 1.0 / self.rows.shape[0])

    @property
    def class_accuracy(self) -> Float[Array, " classes"]:
        """``(correct_c + accuracy) / (rows_c + 1)``: a class not seen has the overall accuracy."""
        return (self.correct + self.accuracy) / (self.rows + 1.0)

    @property
    def competence(self) -> Float[Array, ""]:
        """How far the accuracy a is above chance: ``clip((a − 1/C) / (1 − 1/C), 0, 1)``."""
        return self._above_chance(self.accuracy)

    @property
    def class_competence(self) -> Float[Array, " classes"]:
        """The same of each class's accuracy."""
        return self._above_chance(self.class_accuracy)

    def _above_chance(self, accuracy: Array) -> Array:
        classes = int(self.rows.shape[0])
        if classes == 1:
            return 0.0 * accuracy + 1.0
        above = (accuracy - 1.0 / classes) / (1.0 - 1.0 / classes)
        return clip01(backend_for("TeacherQuality", self.rows), above)


def _counted(
    arguments: TeacherArguments, old: TeacherQuality, batch: TeacherBatch
) -> TeacherQuality:
    """Return the quality with the rows of a batch, in the dtype of the sums, added."""
    ops, dtype = arguments.ops, arguments.ops.dtype(old.rows)
    target = target_class(ops, batch.labels)
    kept = batch.kept & (target >= 0)
    counts = kept, kept & (ops.argmax(batch.logits, 1) == target)
    is_class = one_hot(ops, target, int(old.rows.shape[0]), dtype)
    rows, correct = (ops.sum(is_class * ops.astype(x, dtype)[:, None], 0) for x in counts)
    return TeacherQuality(old.rows + rows, old.correct + correct)


def check_quality(function: str, name: str, quality: Any) -> None:
    """Raise TypeError unless it is a `TeacherQuality`."""
    if not isinstance(quality, TeacherQuality):
        needs = f"{name} needs a TeacherQuality"
        cure = "TeacherQuality.from_logits(teacher_logits, labels) measures it"
        raise Checks(function).wrong_type(needs, type(quality).__name__, cure)

"""How good a teacher is: counts against labels, and the numbers that they give."""

from __future__ import annotations

from typing import Any, NamedTuple

from mcld_core.arguments import TeacherBatch, ratio
from mcld_core.backends import Backend, backend_for
from mcld_core.extensions._terms import log_of, one_hot, target_class
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
        entropy: sum of the rows' entropies, in nats.
        bin_rows: (bins,) rows seen, by confidence (the largest probability); equal bins of 0 … 1.
        bin_confidence: (bins,) sum of their confidences.
        bin_correct: (bins,) of those, the correct rows.

    Example:
        >>> import numpy as np
        >>> logits = np.array([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 4.0]])
        >>> quality = TeacherQuality.from_logits(logits, np.array([0, 1, 1, 1]))
        >>> float(quality.accuracy)
        0.75

    References:
        C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (calibration error).
    """

    rows: Float[Array, " classes"]
    correct: Float[Array, " classes"]
    entropy: Float[Array, ""]
    bin_rows: Float[Array, " bins"]
    bin_confidence: Float[Array, " bins"]
    bin_correct: Float[Array, " bins"]

    @classmethod
    def empty(cls, classes: int, *, bins: int = 15, like: Array | None = None) -> TeacherQuality:
        """Return the quality of a teacher of which nothing was seen: no better than chance.

        Args:
            classes: the width of a row.
            bins: the number of confidence bins.
            like: an array whose framework and device the sums take, and float64 if it has that.

        Raises:
            ValueError, TypeError: a number of classes or bins that is not an int ≥ 1.
        """
        arguments = TeacherArguments("TeacherQuality.empty", like)
        for name, size in (("classes", classes), ("bins", bins)):
            arguments.integer(name, size, minimum=1)
        shapes = [(classes,), (classes,), (), (bins,), (bins,), (bins,)]
        return cls(*arguments.sums(like, *shapes))

    @classmethod
    def from_logits(
        cls,
        teacher_logits: Logits,
        labels: Labels,
        *,
        where: Bool[Array, " batch"] | None = None,
        bins: int = 15,
    ) -> TeacherQuality:
        """Return the quality on a whole validation set: `empty`, then one `update`.

        Raises:
            ValueError, TypeError: as of `update`, or a number of bins that is not an int ≥ 1.
        """
        arguments = TeacherArguments("TeacherQuality.from_logits", teacher_logits, labels, where)
        arguments.integer("bins", bins, minimum=1)
        batch = arguments.labelled_teacher(teacher_logits, labels, where, -100)
        empty = cls.empty(batch.logits.shape[1], bins=bins, like=batch.logits)
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
            raise ValueError(
                f"{function}: teacher_logits needs {classes} classes, as this quality counts; got "
                f"shape {tuple(batch.logits.shape)}"
            )
        decay = arguments.scalar("decay", decay, old.rows, dtype, maximum=1.0)
        return _counted(arguments, TeacherQuality(*(decay * x for x in old)), batch)

    def merge(self, other: TeacherQuality) -> TeacherQuality:
        """Return the quality on the rows of both, such as those of two processes.

        Raises:
            ValueError, TypeError: other classes or bins, or what is not a quality.
        """
        check_quality("TeacherQuality.merge", "other", other)
        shapes = [tuple(x.shape) for x in self], [tuple(x.shape) for x in other]
        if shapes[0] != shapes[1]:
            raise ValueError(
                "TeacherQuality.merge: both need the same classes and bins; got "
                f"{self.rows.shape[0]} and {other.rows.shape[0]} classes, "
                f"{self.bin_rows.shape[0]} and {other.bin_rows.shape[0]} bins"
            )
        return TeacherQuality(*(x + y for x, y in zip(self, other, strict=True)))

    @property
    def accuracy(self) -> Float[Array, ""]:
        """The part of the rows whose arg max is the label; chance (1 / classes) before any row."""
        ops = self._ops()
        accuracy = self._mean(ops.sum(self.correct, None))
        return ops.where(ops.sum(self.rows, None) > 0, accuracy, 1.0 / self.rows.shape[0])

    @property
    def class_accuracy(self) -> Float[Array, " classes"]:
        """``(correct_c + accuracy) / (rows_c + 1)``: a class not seen has the overall accuracy."""
        return (self.correct + self.accuracy) / (self.rows + 1.0)

    @property
    def confidence(self) -> Float[Array, ""]:
        """The mean largest probability; 0 before any row."""
        return self._mean(self._ops().sum(self.bin_confidence, None))

    @property
    def mean_entropy(self) -> Float[Array, ""]:
        """The mean entropy of the rows, in nats; 0 before any row."""
        return self._mean(self.entropy)

    @property
    def calibration_error(self) -> Float[Array, ""]:
        """Expected calibration error: Σ_bins |correct − confidence| / rows; 0 before any row."""
        ops = self._ops()
        return self._mean(ops.sum(ops.abs(self.bin_correct - self.bin_confidence), None))

    @property
    def competence(self) -> Float[Array, ""]:
        """How far the accuracy a is above chance: ``clip((a − 1/C) / (1 − 1/C), 0, 1)``."""
        return _above_chance(self._ops(), self.accuracy, int(self.rows.shape[0]))

    @property
    def class_competence(self) -> Float[Array, " classes"]:
        """The same of each class's accuracy."""
        return _above_chance(self._ops(), self.class_accuracy, int(self.rows.shape[0]))

    def _ops(self) -> Backend:
        return backend_for("TeacherQuality", self.rows)

    def _mean(self, total: Array) -> Array:
        ops = self._ops()
        return ratio(ops, total, ops.sum(self.rows, None))


def _counted(
    arguments: TeacherArguments, old: TeacherQuality, batch: TeacherBatch
) -> TeacherQuality:
    """Return the quality with the rows of a batch, in the dtype of the sums, added."""
    ops, dtype = arguments.ops, arguments.ops.dtype(old.rows)
    classes, bins = int(old.rows.shape[0]), int(old.bin_rows.shape[0])
    target = target_class(ops, batch.labels)
    kept = batch.kept & (target >= 0)
    counted = ops.astype(kept, dtype)
    correct = ops.astype(kept & (ops.argmax(batch.logits, 1) == target), dtype)
    p = ops.softmax(batch.logits, 1)
    confidence = ops.max(p, 1)
    is_class = one_hot(ops, target, classes, dtype)
    is_bin = ops.astype(_in_bin(ops, confidence, bins), dtype)
    new = TeacherQuality(
        rows=_by_group(ops, is_class, counted),
        correct=_by_group(ops, is_class, correct),
        entropy=-ops.sum(counted * ops.sum(p * log_of(ops, p), 1), None),
        bin_rows=_by_group(ops, is_bin, counted),
        bin_confidence=_by_group(ops, is_bin, counted * confidence),
        bin_correct=_by_group(ops, is_bin, correct),
    )
    return TeacherQuality(*(x + y for x, y in zip(old, new, strict=True)))


def check_quality(function: str, name: str, quality: Any) -> None:
    """Raise TypeError unless it is a `TeacherQuality`."""
    if not isinstance(quality, TeacherQuality):
        raise TypeError(
            f"{function}: {name} needs a TeacherQuality; got {type(quality).__name__}. "
            "TeacherQuality.from_logits(teacher_logits, labels) measures it"
        )


def _above_chance(ops: Backend, accuracy: Array, classes: int) -> Array:
    if classes == 1:
        return 0.0 * accuracy + 1.0
    return clip01(ops, (accuracy - 1.0 / classes) / (1.0 - 1.0 / classes))


def _in_bin(ops: Backend, confidence: Array, bins: int) -> Bool[Array, "batch bins"]:
    """Return in which of the bins (b/B, (b+1)/B] each confidence lies; rounding above 1 counts."""
    number = ops.arange(bins, confidence)
    edge = ops.astype(number, ops.dtype(confidence))
    value = confidence[:, None]
    is_below = (value <= ((edge + 1.0) / bins)[None, :]) | (number == bins - 1)[None, :]
    return (value > (edge / bins)[None, :]) & is_below


def _by_group(ops: Backend, member: Float[Array, "batch groups"], x: Array) -> Array:
    """Return the sum of the rows of each group."""
    return ops.sum(member * x[:, None], 0)

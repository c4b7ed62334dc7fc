"""How good a teacher is, by counts against labels, and several teachers as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mcld_core.arguments import Checks, TeacherBatch, fits, one_hot, ratio, target_class, wide_dtype
from mcld_core.backends import backend_for
from mcld_core.extensions._terms import LEAST, log_of
from mcld_core.extensions.teachers.arguments import TeacherArguments, clip01, log_sum
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
        return empty._counting(arguments, batch)

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
        return TeacherQuality(*(decay * x for x in old))._counting(arguments, batch)

    def merge(self, other: TeacherQuality) -> TeacherQuality:
        """Return the quality on the rows of both, such as those of two processes.

        Raises:
            ValueError, TypeError: other classes, or what is not a quality.
        """
        check_quality("TeacherQuality.merge", "other", other)
        ours, theirs = self.rows.shape[0], other.rows.shape[0]
        if ours != theirs:
            checks = Checks("TeacherQuality.merge")
            raise checks.wrong("both need the same classes", f"{ours} and {theirs}")
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

    def _counting(self, arguments: TeacherArguments, batch: TeacherBatch) -> TeacherQuality:
        """Return the quality with the rows of a batch, in the dtype of the sums, added."""
        ops, dtype = arguments.ops, arguments.ops.dtype(self.rows)
        target = target_class(ops, batch.labels)
        kept = batch.kept & (target >= 0)
        counts = kept, kept & (ops.argmax(batch.logits, 1) == target)
        is_class = one_hot(ops, target, int(self.rows.shape[0]), dtype)
        rows, correct = (ops.sum(is_class * ops.astype(x, dtype)[:, None], 0) for x in counts)
        return TeacherQuality(self.rows + rows, self.correct + correct)

    def _above_chance(self, accuracy: Array) -> Array:
        classes = int(self.rows.shape[0])
        if classes == 1:
            return 0.0 * accuracy + 1.0
        above = (accuracy - 1.0 / classes) / (1.0 - 1.0 / classes)
        return clip01(backend_for("TeacherQuality", self.rows), above)


def check_quality(function: str, name: str, quality: Any) -> None:
    """Raise TypeError unless it is a `TeacherQuality`."""
    if not isinstance(quality, TeacherQuality):
        needs = f"{name} needs a TeacherQuality"
        cure = "TeacherQuality.from_logits(teacher_logits, labels) measures it"
        raise Checks(function).wrong_type(needs, type(quality).__name__, cure)


def ensemble(
    logits_list: Sequence[Logits],
    *,
    weights: Sequence[Scalar | Float[Array, " batch"]] | None = None,
    where: Sequence[Bool[Array, " batch"] | None] | None = None,
    temperatures: Sequence[Scalar] | None = None,
    space: str = "probability",
    return_where: bool = False,
) -> Any:
    """Return the logits of a weighted mean of teachers, for `mcld_core.mcld_loss`.

    With v_mi ≥ 0 the weight of teacher m on row i, 0 where it is missing, and T_m its temperature:

    - ``"probability"``: ``log( Σ_m v_mi softmax(t_mi / T_m) / Σ_m v_mi )``, the mean distribution;
    - ``"logits"``: ``Σ_m v_mi t_mi / T_m / Σ_m v_mi``, a (normalised) product of experts.

    A mean of probabilities keeps what one sure teacher knows; a mean of logits lets one sure
    teacher veto. A row without any teacher is 0 everywhere; drop it with ``return_where``.

    Args:
        logits_list: one (batch, classes) array a teacher, any float dtypes.
        weights: one entry a teacher: a number ≥ 0 or (batch,) numbers, such as
            `reliability_weights` of that teacher; None: equal. `quality_weights` gives them from
            measured accuracies.
        where: one entry a teacher: (batch,) bool, True where it has a row, or None: everywhere.
            The content of a missing row, or of one of weight 0, plays no part.
        temperatures: T_m > 0 of each teacher; None: 1.
        space: ``"probability"`` or ``"logits"``.
        return_where: also return (batch,) bool: the rows with at least one teacher of positive
            weight.

    Returns:
        (batch, classes), float32 (float64 if one teacher is), without a gradient.

    Raises:
        ValueError, TypeError: no teacher, lists of different lengths, shapes that differ, a weight
            that is negative or not finite, a temperature that is not one number above 0.

    Example:
        >>> import numpy as np
        >>> sure, unsure = np.log(np.array([[0.9, 0.1]])), np.log(np.array([[0.5, 0.5]]))
        >>> np.exp(ensemble([sure, unsure], weights=[3, 1])).round(3)
        array([[0.8, 0.2]])

    References:
        S. You et al., "Learning from Multiple Teacher Networks", KDD 2017.
    """
    checks = TeacherArguments("ensemble")
    logits_list = checks.entries("logits_list", logits_list)
    count = len(logits_list)
    weights = checks.entries("weights", [1.0] * count if weights is None else weights, count)
    masks = checks.entries("where", [None] * count if where is None else where, count)
    temperatures = [1.0] * count if temperatures is None else temperatures
    temperatures = checks.entries("temperatures", temperatures, count)
    checks.flag("return_where", return_where)
    checks.choice("space", space, ("probability", "logits"))

    arguments = TeacherArguments("ensemble", *logits_list, *weights, *masks, *temperatures)
    ops, like = arguments.ops, arguments.like
    given = [arguments.array(f"logits_list[{m}]", x, like) for m, x in enumerate(logits_list)]
    shapes = [tuple(x.shape) for x in given]
    if not all(fits(shape, shapes[0]) for shape in shapes):
        cure = "Map the classes first: mcld_core.select_classes"
        raise arguments.wrong("logits_list needs arrays of one shape", shapes, cure)
    dtype = wide_dtype(*(ops.dtype(x) for x in given))
    total: Any = 0.0
    parts = []
    for m, x in enumerate(given):
        teacher = arguments.teacher(f"logits_list[{m}]", x, masks[m], dtype)
        tau = arguments.scalar(f"temperatures[{m}]", temperatures[m], x, dtype, above=0.0)
        share = arguments.one_a_row(f"weights[{m}]", weights[m], teacher.kept, dtype, minimum=0.0)
        z, total = teacher.logits / ops.stop_gradient(tau), total + share
        counts = (share > 0)[:, None]
        if space == "logits":
            parts.append(ops.where(counts, share[:, None] * z, 0.0))
        else:
            log_p = ops.at_least(ops.log_softmax(ops.at_least(z, LEAST), 1), LEAST)
            parts.append(ops.where(counts, log_p + log_of(ops, share)[:, None], LEAST))
    present = total > 0
    if space == "logits":
        mean = ratio(ops, sum(parts), total[:, None])
    else:
        mean = log_sum(ops, parts) - log_of(ops, total)[:, None]
        mean = ops.where(present[:, None], mean, 0.0)
    return (mean, present) if return_where else mean


def quality_weights(qualities: Sequence[TeacherQuality], power: float = 1.0) -> list[Any]:
    """Return a weight a teacher for `ensemble` from its measured accuracy: ``competence^power``.

    The competence is the accuracy's distance above chance, 0 … 1, so a teacher that guesses
    counts for nothing. A high power approaches the choice of the best teacher.

    Args:
        qualities: one a teacher, best of all measured on a validation set.
        power: ≥ 0; 0 weighs all teachers alike.

    Returns:
        A list of zero-dimensional arrays in 0 … 1.

    Raises:
        ValueError, TypeError: no quality, what is not a `TeacherQuality`, or a power that is not a
            number ≥ 0.

    Example:
        >>> import numpy as np
        >>> rows, right = np.eye(3), np.arange(3)
        >>> qualities = [TeacherQuality.from_logits(rows, y) for y in (right, right[::-1].copy())]
        >>> [float(weight) for weight in quality_weights(qualities)]
        [1.0, 0.0]
    """
    checks = TeacherArguments("quality_weights")
    checks.number("power", power, minimum=0.0)
    for m, quality in enumerate(checks.entries("qualities", qualities)):
        check_quality("quality_weights", f"qualities[{m}]", quality)
    return [quality.competence**power for quality in qualities]

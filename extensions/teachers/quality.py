"""How good a teacher is, by counts against labels, and several teachers as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mcld_core.arguments import (
    MASKED,
    Arguments,
    Checks,
    TeacherBatch,
    clip01,
    fits,
    keep_rows,
    log_of,
    one_hot,
    ratio,
    target_class,
    wide_dtype,
)
from mcld_core.backends import backend_for
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
        arguments = Arguments("TeacherQuality.empty", like)
        arguments.integer("classes", classes, minimum=1)
        return cls(*arguments.sums(like, (classes,), (classes,)))

    @classmethod
    def from_logits(
        cls, teacher_logits: Logits, labels: Labels, *, where: Bool[Array, " batch"] | None = None
    ) -> TeacherQuality:
        """Return the quality on a whole validation set: `empty`, then one `update`."""
        arguments = Arguments("TeacherQuality.from_logits", teacher_logits, labels, where)
        rows = arguments.array("teacher_logits", teacher_logits, arguments.like)
        arguments.logits("teacher_logits", rows)
        return cls.empty(rows.shape[1], like=rows).update(rows, labels, where=where)

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
        arguments = Arguments("TeacherQuality.update", self.rows, teacher_logits, labels, where)
        ops = arguments.ops
        old = TeacherQuality(*(ops.asarray(x, arguments.like) for x in self))
        dtype = ops.dtype(old.rows)
        batch = teacher_rows(arguments, teacher_logits, where, (labels, ignore_index), dtype=dtype)
        classes = int(old.rows.shape[0])
        if batch.logits.shape[1] != classes:
            needs = f"teacher_logits needs {classes} classes, as this quality counts"
            raise arguments.wrong(needs, f"shape {tuple(batch.logits.shape)}")
        decay = arguments.scalar("decay", decay, old.rows, dtype, maximum=1.0)
        target = target_class(ops, batch.labels)
        counts = batch.kept, batch.kept & (ops.argmax(batch.logits, 1) == target)
        is_class = one_hot(ops, target, classes, dtype)
        added = (ops.sum(is_class * ops.astype(x, dtype)[:, None], 0) for x in counts)
        return TeacherQuality(*(decay * x + y for x, y in zip(old, added, strict=True)))

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


def check_quality(function: str, name: str, quality: Any, classes: int | None = None) -> None:
    """Raise unless it is a `TeacherQuality`, of so many classes."""
    needs, cure = f"{name} needs a TeacherQuality", "TeacherQuality.from_logits measures it"
    if not isinstance(quality, TeacherQuality):
        raise Checks(function).wrong_type(needs, type(quality).__name__, cure)
    if classes not in (None, quality.rows.shape[0]):
        raise Checks(function).wrong(f"{needs} of {classes} classes", quality.rows.shape[0], cure)


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
    checks = Checks("ensemble")
    logits_list = one_a_teacher(checks, "logits_list", logits_list)
    count = len(logits_list)
    weights = one_a_teacher(checks, "weights", weights, count, 1.0)
    masks = one_a_teacher(checks, "where", where, count)
    temperatures = one_a_teacher(checks, "temperatures", temperatures, count, 1.0)
    checks.flag("return_where", return_where)
    checks.choice("space", space, ("probability", "logits"))

    arguments = Arguments("ensemble", *logits_list, *weights, *masks, *temperatures)
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
        teacher = teacher_rows(arguments, x, masks[m], name=f"logits_list[{m}]", dtype=dtype)
        tau = arguments.scalar(f"temperatures[{m}]", temperatures[m], x, dtype, above=0.0)
        share = one_a_row(arguments, f"weights[{m}]", weights[m], teacher.kept, dtype, 0.0)
        z = keep_rows(ops, teacher.logits / ops.stop_gradient(tau), share > 0)
        total = total + share
        if space == "logits":
            parts.append(share[:, None] * z)
        else:
            log_p = ops.at_least(ops.log_softmax(ops.at_least(z, MASKED), 1), MASKED)
            parts.append(log_p + log_of(ops, share)[:, None])
    present = total > 0
    if space == "logits":
        mean = ratio(ops, sum(parts), total[:, None])
    else:
        mean = ops.logsumexp(ops.concat([part[None] for part in parts]), 0)
        mean = mean - log_of(ops, total)[:, None]  # without a teacher MASKED - MASKED
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
    checks = Checks("quality_weights")
    checks.number("power", power, minimum=0.0)
    for m, quality in enumerate(one_a_teacher(checks, "qualities", qualities)):
        check_quality("quality_weights", f"qualities[{m}]", quality)
    return [quality.competence**power for quality in qualities]


# what the functions of `teachers` share


def one_a_teacher(
    checks: Checks, name: str, values: Any, count: int | None = None, default: Any = None
) -> Sequence[Any]:
    """Return a list with one entry a teacher, each the default for None; raise for no such list."""
    if values is None and count is not None:
        return [default] * count
    is_list = hasattr(values, "__len__") and not isinstance(values, (str, dict))
    is_list = is_list and getattr(values, "shape", None) != ()
    found = len(values) if is_list else values
    if not is_list or not found or found != (count or found):
        wanted = "one at least" if count is None else count
        raise checks.wrong(f"{name} needs a list, one entry a teacher, {wanted}", repr(found))
    return list(values)


def one_a_row(
    arguments: Arguments,
    name: str,
    value: Any,
    kept: Bool[Array, " batch"],
    dtype: str,
    minimum: float | None = None,
) -> Float[Array, " batch"]:
    """Return (batch,) finite numbers, or one for all rows, 0 in rows that do not count."""
    ops = arguments.ops
    numbers = ops.astype(arguments.array(name, value, kept), dtype)
    if not len(numbers.shape):
        numbers = numbers + 0.0 * ops.astype(kept, dtype)
    numbers = arguments.shaped(name, numbers, kept)
    arguments.finite(name, numbers, kept, minimum)
    return keep_rows(ops, ops.stop_gradient(numbers), kept)


def required_labels(arguments: Arguments, labels: Any) -> None:
    """Raise TypeError for None: measured against its own arg max a teacher is always right."""
    if labels is None:
        needs = "labels needs (batch,) int or (batch, classes) soft labels"
        cure = "Pass the true labels: the teacher's own arg max cannot stand for them here"
        raise arguments.wrong_type(needs, "None", cure)


def teacher_rows(
    arguments: Arguments,
    logits: Any,
    where: Any,
    labelled: tuple[Any, int] | None = None,
    *,
    name: str = "teacher_logits",
    dtype: str | None = None,
) -> TeacherBatch:
    """Return the rows of one teacher, in ``dtype`` (None: its own, widened).

    ``labelled`` are labels, which are not None, and the int label of rows that do not count.
    The logits are finite below (-inf is `MASKED`), 0 in rows that do not count, and have no
    gradient.
    """
    ops, (labels, ignore_index) = arguments.ops, labelled or (None, -100)
    if labelled is not None:
        required_labels(arguments, labels)
    given = arguments.array(name, logits, arguments.like)
    batch = arguments.teacher_batch(given, (labels, None, where), ignore_index, name)
    if arguments.like is not None:
        arguments.device(name, given, arguments.like, "another argument")
    dtype = wide_dtype(ops.dtype(given)) if dtype is None else dtype
    rows = keep_rows(ops, ops.astype(batch.logits, dtype), batch.kept)
    labels = batch.labels
    if labels is not None and labels.ndim == 2:
        labels = keep_rows(ops, ops.astype(labels, dtype), batch.kept)
    return batch._replace(logits=ops.at_least(rows, MASKED), labels=labels)

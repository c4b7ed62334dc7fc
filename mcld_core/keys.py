"""The teacher rows to contrast with, `TeacherKeys`, and the mean of each class, `ClassMeans`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mcld_core.arguments import (
    MAP_CLASSES,
    Arguments,
    Batch,
    Checks,
    is_plain,
    keep_rows,
    one_hot,
    plain_number,
    wide_dtype,
)
from mcld_core.backends import Backend
from mcld_core.config import MCLDConfig
from mcld_core.formulas.objective import NEGLIGIBLE, KeySet, key_vectors
from mcld_core.typing import Array, Bool, Float, Labels, Logits, Scalar


class TeacherKeys(NamedTuple):
    """All teacher rows that a batch is contrasted with.

    Rows ``own_start … own_start + batch`` belong to the batch's own samples; all others are more
    keys (a bank, other replicas). Without ``keys`` a batch is its own keys. A NamedTuple of
    arrays, so a pytree: it may be traced, ``own_start`` too.

    Args:
        logits: (keys, classes), any float dtype; None where ``probabilities`` are given.
        labels: (keys,) int, or (keys, classes) soft, or None: the arg max of each row.
        where: (keys,) bool, True = keep; None keeps all. A key is also dropped where its int
            label is ``ignore_index``, and where it is the own row of a dropped row; the own row
            of a kept row always counts.
        own_start: the first of the batch's own rows.
        prototypes: (classes, classes), one key a class for ``category_contrast="prototypes"``; a
            row that is not finite marks a class without one. None: class means of the keys.
        normalizer: what ``reduction="mean"`` divides by instead of the batch's own Σ v; set by
            ``gather_keys``.
        probabilities: (keys, classes), ``softmax(logits)`` in place of the logits: keys that are
            ready for the default similarity and key temperature, whose softmax no step forms again.
            A bank gives them that was given probabilities for logits:
            ``keys._replace(logits=None, probabilities=keys.logits)``. Finite in every row, those
            that do not count too.
    """

    logits: Float[Array, "keys classes"] | None
    labels: Labels | None = None
    where: Bool[Array, " keys"] | None = None
    own_start: Scalar = 0
    prototypes: Float[Array, "classes classes"] | None = None
    normalizer: Scalar | None = None
    probabilities: Float[Array, "keys classes"] | None = None


def as_keys(function: str, teacher_logits: Any, labels: Any, where: Any) -> TeacherKeys:
    """Return rows with their labels and mask as keys; gathered keys bring both along."""
    if not isinstance(teacher_logits, TeacherKeys):
        return TeacherKeys(teacher_logits, labels, where)
    if labels is not None or where is not None:
        needs = "labels and where come with the TeacherKeys"
        raise Checks(function).wrong(needs, "them twice", "Leave them out")
    return teacher_logits


def rows_beside(
    arguments: Arguments, name: str, rows: Any, other: Array, other_name: str
) -> Float[Array, "rows classes"]:
    """Return rows of a teacher, converted; raise unless they fit others with the same classes."""
    rows = arguments.array(name, rows, other)
    arguments.logits(name, rows)
    if rows.shape[1] != other.shape[1]:
        needs = f"{name} need shape (rows, {other.shape[1]}), with the classes of {other_name}"
        raise arguments.wrong(needs, tuple(rows.shape), MAP_CLASSES)
    arguments.device(name, rows, other, other_name)
    return rows


class ClassMeans(NamedTuple):
    """One key a class for ``category_contrast="prototypes"``, without a pass over the training set.

    A batch shows only some of many classes. The mean rows of all classes that were seen so far
    cost (batch × classes) similarities a step, whatever the size of the training set. With a
    frozen teacher they become those of `TeacherBank.class_means` after one epoch. It is a
    NamedTuple of arrays, so a pytree, and pure: `update` returns new means. A step updates them
    first, so that the classes of the batch are among them::

        means = means.update(teacher_logits, labels, config=config)
        keys = TeacherKeys(teacher_logits, labels, prototypes=means.prototypes)
        loss = mcld_loss(student_logits, teacher_logits, labels, config=config, keys=keys)

    Args:
        means: (classes, classes), row c the mean key of class c; zeros where none was seen.
        counts: (classes,), the rows (or the label weights) that each mean stands for.

    Example:
        >>> import numpy as np
        >>> means = ClassMeans.empty(classes=2)
        >>> means = means.update(np.array([[0.0, 0.0], [9.0, 9.0]]), np.array([1, 1]))
        >>> means.prototypes
        array([[nan, nan],
               [0.5, 0.5]])
        >>> means.counts
        array([0., 2.])
    """

    means: Float[Array, "classes classes"]
    counts: Float[Array, " classes"]

    @classmethod
    def empty(cls, classes: int, like: Array | None = None) -> ClassMeans:
        """Return means of nothing yet.

        Args:
            classes: the width of a row.
            like: an array whose framework and device they take; None: those of plain arrays. They
                are float32, or float64 where ``like`` is.

        Raises:
            ValueError: ``classes`` is not an int above 0.
        """
        arguments = Arguments("ClassMeans.empty", like)
        classes = arguments.integer("classes", classes, minimum=1)
        return cls(*arguments.sums(like, (classes, classes), (classes,)))

    def update(
        self,
        teacher_logits: Logits | TeacherKeys,
        labels: Labels | None = None,
        *,
        where: Bool[Array, " batch"] | None = None,
        config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
        window: float | None = None,
    ) -> ClassMeans:
        """Return the means with the batch's rows in them.

        ``m_c ← m_c + n_c / (N_c + n_c) (batch mean of c - m_c)``, with n_c rows of class c in the
        batch and N_c before it, at most ``window``.

        Args:
            teacher_logits, labels, where: as in `TeacherBank.keys`; gathered keys give all ranks
                the same means.
            config: its ``similarity`` and ``key_temperature`` say what a key is, and rows with the
                int label ``ignore_index`` do not count.
            window: how many rows of a class its mean remembers, for a teacher that changes; None:
                all.

        Raises:
            ValueError, TypeError: shapes, dtypes, devices, labels or a number that do not fit.
        """
        function = "ClassMeans.update"
        keys = as_keys(function, teacher_logits, labels, where)
        arguments = Arguments(function, self.means, keys.logits, keys.labels, keys.where)
        arguments.settings(config, MCLDConfig)
        if window is not None:
            arguments.number("window", window, above=0.0)
        ops = arguments.ops
        means, counts = (ops.asarray(x, arguments.like) for x in self)
        rows = rows_beside(arguments, "teacher_logits", keys.logits, means, "the means")
        given = arguments.teacher_batch(rows, (keys.labels, None, keys.where), config.ignore_index)
        dtype = wide_dtype(ops.dtype(rows), ops.dtype(means))
        own = ops.argmax(rows, 1) if given.labels is None else given.labels
        fresh_keys = KeySet.of(ops, given.logits, own, given.kept)
        fresh, added = class_means(ops, fresh_keys, dtype, config)
        means, before = (ops.astype(x, dtype) for x in (means, counts))
        if window is not None:
            before = ops.minimum(before, window)
        total = before + added
        part = added / ops.where(total > NEGLIGIBLE, total, 1.0)
        return ClassMeans(means + part[:, None] * (fresh - means), total)

    @property
    def prototypes(self) -> Float[Array, "classes classes"]:
        """The means as ``TeacherKeys.prototypes``; NaN, which is left out, for unseen classes."""
        ops = Arguments("ClassMeans.prototypes", self.means).ops
        means, counts = (ops.asarray(x) for x in self)
        return ops.where((counts > NEGLIGIBLE)[:, None], means, float("nan"))


def key_arrays(function: str, keys: Any) -> tuple[Any, ...]:
    """Return the arrays of keys, which decide on the backend; raise unless it is `TeacherKeys`."""
    if not isinstance(keys, TeacherKeys):
        cure = "Pass TeacherKeys(logits, labels)"
        if hasattr(keys, "push"):  # a TeacherBank, which does not know the batch's own rows
            cure = "Pass keys=bank.keys(teacher_logits, labels)"
        raise Checks(function).wrong_type("keys needs TeacherKeys", type(keys).__name__, cure)
    return keys.logits, keys.labels, keys.where, keys.prototypes, keys.probabilities


def prepare_keys(
    arguments: Arguments,
    batch: Batch,
    keys: TeacherKeys,
    config: MCLDConfig,
    is_compared: bool = False,
) -> tuple[KeySet, Any]:
    """Return the keys, checked and converted, the rows that do not count marked; and own_start.

    Their labels may be any ids where they are compared and nothing else.
    """
    ops = arguments.ops
    vectors, is_ready = _key_vectors(arguments, keys, batch.student, config)
    kept, counts = arguments.mask("keys.where", keys.where, vectors), None
    if keys.labels is None:
        labels = ops.argmax(vectors, 1)
    else:
        labels, counts = arguments.labels(
            "keys.labels", keys.labels, vectors, batch.dtype, kept, config.ignore_index,
            is_compared,
        )  # fmt: skip
    kept = arguments.none_if_all_kept(kept, counts)
    of_batch: Any = batch.labels
    if labels.ndim == 2 and of_batch.ndim == 2 and labels.shape[1] != of_batch.shape[1]:
        came = f"{tuple(of_batch.shape)} and {tuple(labels.shape)}"
        needs = "labels and keys.labels need the same width where both are soft"
        raise arguments.wrong(needs, came)
    ours, theirs = ops.dtype(of_batch), ops.dtype(labels)
    if labels.ndim == 1 and of_batch.ndim == 1 and ours != theirs:  # ids, to compare
        if ours == "int32":  # no label of the batch is an id beyond 32 bits
            labels = ops.where(labels <= np.iinfo("int32").max, labels, -1)
        labels = ops.astype(labels, ours)
    own_start = _own_start(arguments, keys, batch, vectors)
    if kept is not None or batch.kept is not None:  # each own key counts where its row does
        own = ops.arange(ops.size(batch.student, 0), vectors)
        kept = ops.arange(ops.size(vectors, 0), vectors) >= 0 if kept is None else kept
        kept = ops.put(kept, own + own_start, own >= 0 if batch.kept is None else batch.kept)
    return KeySet.of(ops, vectors, labels, kept, is_ready), own_start


def prototype_keys(
    arguments: Arguments,
    batch: Batch,
    keys: TeacherKeys | None,
    all_keys: KeySet,
    config: MCLDConfig,
) -> KeySet:
    """One key a class: ``keys.prototypes``, else the class means of the kept keys."""
    ops, classes = arguments.ops, batch.student.shape[1]
    if keys is not None and keys.prototypes is not None:
        shape, each = (classes, classes), "(classes, classes), one row a class"
        means = arguments.shaped("keys.prototypes", keys.prototypes, batch.student, shape, each)
        means = ops.stop_gradient(ops.astype(means, batch.dtype))
        present = ops.all(ops.isfinite(means), 1)
    else:
        means, count = class_means(ops, all_keys, batch.dtype, config)
        present = count > NEGLIGIBLE
    is_ready = config.compares_distributions  # they are means of probabilities
    means = keep_rows(ops, means, present)
    return KeySet.of(ops, means, ops.arange(classes, means), present, is_ready)


def class_means(
    ops: Backend, keys: KeySet, dtype: str, config: MCLDConfig
) -> tuple[Float[Array, "classes classes"], Float[Array, " classes"]]:
    """Return the label-weighted mean key of each class, and the sum of its label weights.

    Means of the probabilities where the similarity compares distributions, else of the logits.
    """
    rows = keep_rows(ops, ops.astype(keys.vectors, dtype), keys.kept)
    if config.compares_distributions and not keys.is_ready:
        rows = key_vectors(ops, rows, config.similarity, config.key_temperature)
    membership = ops.astype(one_hot(ops, keys.labels, rows.shape[1], dtype), dtype)
    membership = ops.matrix_transpose(membership)
    total = ops.sum(membership, 1)
    divisor = ops.where(total > NEGLIGIBLE, total, 1.0)
    return ops.matmul(membership, rows) / divisor[:, None], total


def _key_vectors(
    arguments: Arguments, keys: TeacherKeys, student: Array, config: MCLDConfig
) -> tuple[Float[Array, "keys classes"], bool]:
    """Return the rows of keys, and whether they are probabilities."""
    is_ready = keys.probabilities is not None
    name = "keys.probabilities" if is_ready else "keys.logits"
    if is_ready and keys.logits is not None:
        raise arguments.wrong("keys need logits or probabilities", "both")
    temperature = config.key_temperature
    if is_ready and not (config.compares_distributions and is_plain(temperature, 1)):
        came = f"{config.similarity!r} at {temperature}"
        needs = "probabilities serve similarity 'probability' at key_temperature 1"
        raise arguments.wrong(needs, came, "Pass, or store, the logits")
    vectors = keys.probabilities if is_ready else keys.logits
    vectors = rows_beside(arguments, name, vectors, student, "student_logits")
    return arguments.ops.stop_gradient(vectors), is_ready


def _own_start(arguments: Arguments, keys: TeacherKeys, batch: Batch, logits: Array) -> Any:
    """Return where the batch's own rows begin: an int, or an array that may be traced."""
    ops, rows, count = arguments.ops, batch.student.shape[0], logits.shape[0]
    start = plain_number(keys.own_start)
    found = start
    if not isinstance(start, int) or isinstance(start, bool):
        start = arguments.array("keys.own_start", start, batch.student)
        if len(start.shape) or not ops.dtype(start).startswith(("int", "uint")):
            raise arguments.wrong_type("keys.own_start needs one int", repr(keys.own_start))
        values = ops.host_values(start)
        found = None if values is None else int(values)
        start = ops.astype(start, "int32")
    known = isinstance(rows, int) and isinstance(count, int)
    if known and found is not None and not 0 <= found <= count - rows:
        came = f"own_start {found} with batch {rows} and {count} keys"
        raise arguments.wrong("keys.own_start needs own_start + batch ≤ keys", came)
    return start

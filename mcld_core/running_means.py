"""The mean teacher row of each class, from the batches as they come: `ClassMeans`."""

from __future__ import annotations

from typing import NamedTuple

from mcld_core.arguments import Arguments, wide_dtype
from mcld_core.config import MCLDConfig, check_config
from mcld_core.formulas.objective import NEGLIGIBLE, KeySet
from mcld_core.keys import TeacherKeys, as_keys, class_means
from mcld_core.typing import Array, Bool, Float, Labels, Logits


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
            teacher_logits: (batch, classes); or the `TeacherKeys` of ``gather_keys``, whose labels
                and mask come with them, so that all ranks have the same means.
            labels: (batch,) int, or (batch, classes) soft, or None: the arg max of each row.
            where: (batch,) bool, True = keep.
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
        check_config(arguments.function, config)
        if window is not None:
            arguments.number("window", window, above=0.0)
        ops = arguments.ops
        means, counts = (ops.asarray(x, arguments.like) for x in self)
        rows = arguments.rows_beside(means, "the means", keys.logits)
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

"""A memory of teacher rows: `TeacherBank`, more keys than one batch has."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mcld_core.arguments import Arguments, Checks, one_hot, wide_dtype
from mcld_core.backends import Backend
from mcld_core.config import MCLDConfig
from mcld_core.keys import ClassMeans, TeacherKeys, as_keys, rows_beside
from mcld_core.typing import Array, Bool, Float, Int, Labels, Logits

_LARGEST = {"float16": 65504.0, "bfloat16": 255 * 2.0**120, "float32": (2.0**24 - 1) * 2.0**104}
_HASHED = 2**31 - 1


class TeacherBank(NamedTuple):
    """A fixed-size memory of teacher rows, first in first out; or those of a whole training set.

    A frozen teacher's rows never go stale, so old rows are as good keys as new ones. The bank is
    a NamedTuple of arrays, so a pytree: carry it through ``jax.jit``, ``tf.function`` or
    ``torch.compile`` (all shapes are static) and save it like any other state. It is pure: `push`
    returns a new bank. A step takes its keys first and pushes then::

        keys = bank.keys(teacher_logits, labels)
        loss = mcld_loss(student_logits, teacher_logits, labels, keys=keys)
        bank = bank.push(teacher_logits, labels)

    Make one by `empty` or `from_logits`; the fields below are what a checkpoint holds.

    Args:
        vectors: (capacity, classes), the rows as they are stored, in the dtype of the storage.
        labels: (capacity,) int32, or (capacity, classes) soft.
        where: (capacity,) bool: which rows hold a sample.
        ids: (capacity,) int32 sample ids, larger ones hashed; -1 where unknown.
        cursor: () int32, the row that the next sample goes to.

    Example:
        >>> import numpy as np
        >>> bank = TeacherBank.empty(capacity=3, classes=2)
        >>> bank = bank.push(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1]))
        >>> bank.where.tolist(), int(bank.cursor)
        ([True, True, False], 2)
        >>> bank.keys(np.array([[2.0, 0.0]]), np.array([0])).labels.tolist()
        [0, 0, 1, -1]

    References:
        X. Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020. K. He et al.,
        "Momentum Contrast", CVPR 2020 (a queue of keys).
    """

    vectors: Float[Array, "capacity classes"]
    labels: Int[Array, " capacity"] | Float[Array, "capacity classes"]
    where: Bool[Array, " capacity"]
    ids: Int[Array, " capacity"]
    cursor: Int[Array, ""]

    @classmethod
    def empty(
        cls, capacity: int, classes: int, like: Array | None = None, *, soft_labels: bool = False
    ) -> TeacherBank:
        """Return a bank without rows: it adds no key until something is pushed.

        Args:
            capacity: how many rows it holds.
            classes: the width of a row.
            like: a float array whose framework, device and dtype the bank takes, half precision
                for half the memory (float16 stores larger finite logits as ±65504); None: those
                of plain arrays, in float32.
            soft_labels: whether labels are stored as (capacity, classes), for mixed labels.

        Raises:
            ValueError, TypeError: a size that is not an int above 0, a dtype that is not float.
        """
        arguments = Arguments("TeacherBank.empty", like)
        arguments.flag("soft_labels", soft_labels)
        capacity = arguments.integer("capacity", capacity, minimum=1)
        classes = arguments.integer("classes", classes, minimum=1)
        ops = arguments.ops
        dtype = "float32" if like is None else ops.dtype(arguments.array("like", like))
        if "float" not in dtype:
            raise arguments.wrong_type("like needs a float dtype", dtype)
        zeros = np.zeros((capacity, classes), "float32")
        vectors = ops.astype(ops.asarray(zeros, like), dtype)
        if soft_labels:  # an array of its own: the fields may be updated in place or donated
            labels = ops.astype(ops.asarray(zeros.copy(), vectors), wide_dtype(ops.dtype(vectors)))
        else:
            labels = ops.asarray(np.full(capacity, -1, "int32"), vectors)
        return cls(
            vectors=vectors,
            labels=labels,
            where=ops.asarray(np.zeros(capacity, "bool"), vectors),
            ids=ops.asarray(np.full(capacity, -1, "int32"), vectors),
            cursor=ops.asarray(np.asarray(0, "int32"), vectors),
        )

    @classmethod
    def from_logits(
        cls,
        logits: Logits,
        labels: Labels | None = None,
        index: Int[Array, " batch"] | None = None,
        *,
        like: Array | None = None,
        ignore_index: int = -100,
    ) -> TeacherBank:
        """Return a full bank, such as the teacher's logits of a whole training set, copied.

        Args:
            logits: (rows, classes), any float dtype.
            labels: (rows,) int, or (rows, classes) soft, or None: the arg max of each row.
            index: (rows,) int sample ids ≥ 0; None: the row numbers 0, 1, ….
            like: an array whose framework and device the bank takes where ``logits`` is a NumPy
                array; without it each `keys` would convert the whole bank.
            ignore_index: rows with this int label hold no sample.

        Raises:
            ValueError, TypeError: shapes, dtypes, devices or labels that do not fit.
        """
        function = "TeacherBank.from_logits"
        arguments = Arguments(function, logits, labels, index, like)
        ops = arguments.ops
        rows = arguments.array("logits", logits, like)
        bank = cls._full(arguments, "logits", rows, (labels, None, index), ignore_index)
        return bank._replace(
            # copies, which no later change of the caller's reaches
            vectors=ops.concat([bank.vectors]),
            labels=ops.concat([bank.labels]),
            ids=ops.arange(ops.size(rows, 0), rows) if index is None else bank.ids,
        )

    def keys(
        self,
        teacher_logits: Logits | TeacherKeys,
        labels: Labels | None = None,
        *,
        where: Bool[Array, " batch"] | None = None,
        index: Int[Array, " batch"] | None = None,
        ignore_index: int = -100,
    ) -> TeacherKeys:
        """Return the batch's rows, then the bank's, as keys.

        Args:
            teacher_logits: (batch, classes); or the `TeacherKeys` of ``gather_keys``, whose labels
                and mask come with them.
            labels: (batch,) int, or (batch, classes) soft, or None: the arg max of each row.
            where: (batch,) bool, True = keep.
            index: (batch,) int sample ids ≥ 0. Bank rows of these ids are left out, so that a
                sample is never its own negative (with hard labels the target mask sees to that
                as well). The ids of dropped rows count for nothing.
            ignore_index: rows with this int label are dropped; as in the loss's `MCLDConfig`.

        Returns:
            `TeacherKeys` of batch + capacity rows; ``own_start`` is 0, or that of the gathered
            keys, whose ``normalizer`` they keep too.

        Raises:
            ValueError, TypeError: shapes, dtypes, devices or labels that do not fit.
        """
        arguments, bank, batch, given = self._read(
            "TeacherBank.keys", teacher_logits, (labels, where, index), ignore_index
        )
        ops, rows = arguments.ops, batch.vectors
        dtype = wide_dtype(ops.dtype(rows), ops.dtype(bank.vectors))
        ours, theirs = batch.labels, bank.labels
        if ours.ndim == 2 or theirs.ndim == 2:
            classes = rows.shape[1]
            ours, theirs = (
                ops.astype(one_hot(ops, y, classes, dtype), dtype) for y in (ours, theirs)
            )
        others = bank.where
        if index is not None:
            differs = bank.ids[:, None] != batch.ids[None, :]
            others = others & ops.all(differs | (bank.ids < 0)[:, None], 1)
        joined = ops.concat([ops.astype(x, dtype) for x in (rows, bank.vectors)])
        labels, kept = ops.concat([ours, theirs]), ops.concat([batch.where, others])
        return given._replace(logits=joined, labels=labels, where=kept)

    def push(
        self,
        teacher_logits: Logits | TeacherKeys,
        labels: Labels | None = None,
        *,
        where: Bool[Array, " batch"] | None = None,
        index: Int[Array, " batch"] | None = None,
        ignore_index: int = -100,
    ) -> TeacherBank:
        """Return a bank with the batch's kept rows in place of the oldest; call it after `keys`.

        Of more rows than the bank holds, the last ones stay.

        Args:
            teacher_logits: (batch, classes), or gathered keys, as in `keys`.
            labels: as in `keys`; a bank made with ``soft_labels`` takes both kinds, any other
                takes int labels only.
            where: (batch,) bool; rows with False are not pushed.
            index: (batch,) int sample ids ≥ 0; None: unknown.
            ignore_index: rows with this int label are not pushed.

        Raises:
            ValueError, TypeError: shapes, dtypes, devices or labels that do not fit.
        """
        arguments, bank, batch, _ = self._read(
            "TeacherBank.push", teacher_logits, (labels, where, index), ignore_index
        )
        ops, labels = arguments.ops, batch.labels
        if labels.ndim == 2 and bank.labels.ndim == 1:
            needs = "labels need to be int, as this bank stores them"
            came = f"soft labels of shape {tuple(labels.shape)}"
            cure = "Pass soft_labels=True where the bank is made: TeacherBank.empty, or the loss"
            raise arguments.wrong_type(needs, came, cure)
        if bank.labels.ndim == 2:
            labels = one_hot(ops, labels, bank.vectors.shape[1], ops.dtype(bank.labels))
        batch, capacity = batch._replace(labels=labels), int(bank.vectors.shape[0])
        target, source, is_new, count = places(ops, batch.where, capacity, bank.cursor)

        def put(old: Array, new: Array) -> Array:
            new = ops.take(new, source)
            largest, theirs = (_LARGEST.get(ops.dtype(x), np.inf) for x in (old, new))
            if largest < theirs:  # a finite number could become infinite
                new = ops.astype(new, wide_dtype(ops.dtype(new)))
                finite = ops.minimum(ops.maximum(new, -largest), largest)
                new = ops.where(ops.isfinite(new), finite, new)
            new = ops.astype(new, ops.dtype(old))
            replaced = is_new[:, None] if old.ndim == 2 else is_new
            return ops.put(old, target, ops.where(replaced, new, ops.take(old, target)))

        return TeacherBank(
            vectors=put(bank.vectors, batch.vectors),
            labels=put(bank.labels, batch.labels),
            where=put(bank.where, batch.where),
            ids=put(bank.ids, batch.ids),
            cursor=(bank.cursor + count) % capacity,
        )

    def class_means(self, config: MCLDConfig = MCLDConfig()) -> Float[Array, "classes classes"]:  # noqa: B008
        """Return the label-weighted mean row of each class, as ``TeacherKeys.prototypes``.

        Means of ``softmax(t / T_key)`` under the ``"probability"`` similarity and of the logits
        otherwise, over the rows that hold a sample. A class without one is a row of NaN, which
        the contrast leaves out.

        Example:
            >>> import numpy as np
            >>> bank = TeacherBank.from_logits(np.array([[0.0, 0.0], [9.0, 9.0]]), np.array([1, 1]))
            >>> bank.class_means()
            array([[nan, nan],
                   [0.5, 0.5]])
        """
        Checks("TeacherBank.class_means").settings(config, MCLDConfig)
        empty = ClassMeans.empty(int(self.vectors.shape[1]), like=self.vectors)
        means = empty.update(self.vectors, self.labels, where=self.where, config=config)
        return means.prototypes

    def _read(
        self,
        function: str,
        teacher_logits: Logits | TeacherKeys,
        beside: tuple[Any, Any, Any],
        ignore_index: int,
    ) -> tuple[Arguments, TeacherBank, TeacherBank, TeacherKeys]:
        """Check rows with their labels, mask and ids.

        Return the bank, a bank that is full of the rows, and the rows as they were given.
        """
        labels, where, index = beside
        given = as_keys(function, teacher_logits, labels, where)
        beside = (given.labels, given.where, index)
        arguments = Arguments(function, self.vectors, given.logits, *beside)
        bank = TeacherBank(*(arguments.ops.asarray(x, arguments.like) for x in self))
        rows = rows_beside(arguments, "teacher_logits", given.logits, bank.vectors, "the bank")
        batch = self._full(arguments, "teacher_logits", rows, beside, ignore_index)
        return arguments, bank, batch, given

    @classmethod
    def _full(
        cls,
        arguments: Arguments,
        name: str,
        rows: Array,
        beside: tuple[Any, Any, Any],
        ignore_index: int,
    ) -> TeacherBank:
        """Return a bank that is full of the rows, checked and converted.

        ``beside`` are labels, ``where`` and ids; the int label ``ignore_index`` marks no sample.
        """
        ops, (labels, where, index) = arguments.ops, beside
        given = arguments.teacher_batch(rows, (labels, None, where), ignore_index, name)
        labels = given.labels
        if labels is None:
            labels = ops.argmax(given.logits, 1)
        elif labels.ndim == 2:
            labels = ops.astype(labels, wide_dtype(ops.dtype(rows)))
        if index is None:
            ids = ops.minimum(ops.arange(ops.size(rows, 0), rows), -1)
        else:
            ids = ops.maximum(arguments.ids("index", index, rows), -1)
            if ops.dtype(ids) == "int64":  # those that do not fit are hashed into 31 bits
                hashed = (ids % _HASHED + (ids // 2**31) * 1540483477) % _HASHED
                ids = ops.astype(ops.where(ids < 2**31, ids, hashed), "int32")
            ids = ops.where(given.kept, ids, -1)
        cursor = ops.asarray(np.asarray(0, "int32"), rows)
        return cls(given.logits, labels, given.kept, ids, cursor)


def places(
    ops: Backend, kept: Array, capacity: int, cursor: Array
) -> tuple[Array, Array, Array, Array]:
    """Line up the kept rows from the cursor on, without a dynamic shape.

    Returns ``target, source, is_new, count``: bank row ``target[k]`` takes batch row ``source[k]``
    if ``is_new[k]``, and else keeps its content. So no target repeats or lies out of range.
    """
    row, is_kept = ops.arange(ops.size(kept, 0), kept), ops.astype(kept, "int32")
    rank = ops.cumulative_sum(is_kept)
    kept_rows = ops.astype(ops.sum(is_kept, None), "int32")
    count = ops.minimum(kept_rows, capacity)
    in_order = ops.put(row, ops.where(kept, rank - 1, kept_rows + row - rank), row)
    slot = row[:capacity]
    source = ops.minimum(slot + (kept_rows - count), ops.size(kept, 0) - 1)
    return (cursor + slot) % capacity, ops.take(in_order, source), slot < count, count

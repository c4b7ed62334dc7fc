"""The teacher rows to contrast with: `TeacherKeys`, and how they enter the contrasts."""

from __future__ import annotations

from typing import Any, NamedTuple

from mcld_core.arguments import (
    Batch,
    check_device,
    check_label_values,
    checked_mask,
    class_labels,
    keep_rows,
    label_kind,
    unless_all,
)
from mcld_core.backends import Backend
from mcld_core.config import MCLDConfig, plain_number
from mcld_core.formulas.contrast import NEGLIGIBLE, one_hot
from mcld_core.formulas.similarity import key_vectors
from mcld_core.typing import Array, Bool, Float, Int, Labels, Scalar


class TeacherKeys(NamedTuple):
    """All teacher rows that a batch is contrasted with.

    Rows ``own_start … own_start + batch`` belong to the batch's own samples; all others are more
    keys (a bank, other replicas). Without ``keys`` a batch is its own keys. A NamedTuple of
    arrays, so a pytree: it may be traced, ``own_start`` too.

    Args:
        logits: (keys, classes), any float dtype.
        labels: (keys,) int, or (keys, classes) soft, or None: the arg max of each row.
        where: (keys,) bool, True = keep; None keeps all. A key is also dropped where its int
            label is ``ignore_index``, and where it is the own row of a dropped row; the own row
            of a kept row always counts.
        own_start: the first of the batch's own rows.
        prototypes: (classes, classes), one key a class for ``category_contrast="prototypes"``; a
            row that is not finite marks a class without one. None: class means of the keys.
        normalizer: what ``reduction="mean"`` divides by instead of the batch's own Σ v; set by
            ``gather_keys``.
    """

    logits: Float[Array, "keys classes"]
    labels: Labels | None = None
    where: Bool[Array, "keys"] | None = None  # noqa: F821
    own_start: Scalar = 0
    prototypes: Float[Array, "classes classes"] | None = None
    normalizer: Scalar | None = None


class KeyRows(NamedTuple):
    """Keys as the row functions take them: converted, labelled, masked."""

    vectors: Float[Array, "keys classes"]
    """Raw logits, until they are embedded for the similarity."""
    labels: Int[Array, "keys"] | Float[Array, "keys classes"]  # noqa: F821
    """-2, or zeros, where the key does not count: no anchor shares such a label."""
    kept: Bool[Array, "keys"] | None  # noqa: F821


def check_keys(function: str, keys: Any) -> None:
    """Raise TypeError unless the keys are `TeacherKeys`, or None."""
    if keys is None or isinstance(keys, TeacherKeys):
        return
    hint = "TeacherKeys(logits, labels)"
    if hasattr(keys, "push"):  # a TeacherBank, which does not know the batch's own rows
        hint = "keys=bank.keys(teacher_logits, labels)"
    raise TypeError(f"{function}: keys needs TeacherKeys; got {type(keys).__name__}. Pass {hint}")


def prepare_keys(
    function: str, ops: Backend, batch: Batch, keys: TeacherKeys | None, ignore_index: int
) -> tuple[KeyRows, Any]:
    """Return the keys, converted, with the rows that do not count marked; and own_start.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices or labels that do not fit the batch.
    """
    if keys is None:
        labels = _masked_labels(ops, batch.labels, batch.kept)
        return KeyRows(batch.teacher, labels, batch.kept), 0
    student = batch.student
    rows, classes = student.shape
    logits = ops.asarray(keys.logits, student)
    _check_key_logits(function, ops, logits, student)
    logits = ops.stop_gradient(logits)
    count = logits.shape[0]

    kept = None
    if keys.where is not None:
        kept = checked_mask(function, "keys.where", ops, keys.where, count, student)
    if keys.labels is None:
        labels = ops.argmax(logits, 1)
    else:
        labels = ops.asarray(keys.labels, student)
        kind = label_kind(function, "keys.labels", ops, labels, count, classes)
        check_device(function, ops, "keys.labels", labels, student)
        check_label_values(function, "keys.labels", ops, labels, kept, classes, ignore_index)
        if kind == "soft":
            labels = ops.stop_gradient(ops.astype(labels, batch.dtype))
        else:
            labels, counts = class_labels(ops, labels, classes, ignore_index)
            kept = unless_all(ops, counts if kept is None else kept & counts)

    own_start = plain_number(keys.own_start)
    if isinstance(own_start, int):
        if isinstance(rows, int) and isinstance(count, int) and not 0 <= own_start <= count - rows:
            raise ValueError(
                f"{function}: keys.own_start needs own_start + batch ≤ keys; got own_start "
                f"{own_start} with batch {rows} and {count} keys"
            )
    else:
        own_start = ops.astype(ops.asarray(own_start, student), "int32")
    if kept is not None or batch.kept is not None:
        kept = _with_own_rows(ops, kept, batch, own_start, logits)
    return KeyRows(logits, _masked_labels(ops, labels, kept), kept), own_start


def prototype_rows(
    function: str,
    ops: Backend,
    batch: Batch,
    keys: TeacherKeys | None,
    all_keys: KeyRows,
    config: MCLDConfig,
) -> KeyRows:
    """One key a class: ``keys.prototypes``, else the class means of the kept keys."""
    classes = batch.student.shape[1]
    if keys is not None and keys.prototypes is not None:
        means = ops.asarray(keys.prototypes, batch.student)
        if tuple(means.shape) != (classes, classes):
            raise ValueError(
                f"{function}: keys.prototypes needs shape (classes, classes) = "
                f"({classes}, {classes}), one row a class; got {tuple(means.shape)}"
            )
        check_device(function, ops, "keys.prototypes", means, batch.student)
        means = ops.stop_gradient(ops.astype(means, batch.dtype))
        present = ops.all(ops.isfinite(means), 1)
    else:
        logits = keep_rows(ops, ops.astype(all_keys.vectors, batch.dtype), all_keys.kept)
        means, present = class_means(ops, logits, all_keys.labels, config)
    index = ops.arange(classes, means)
    return KeyRows(keep_rows(ops, means, present), _masked_labels(ops, index, present), present)


def class_means(
    ops: Backend,
    logits: Float[Array, "keys classes"],
    labels: Int[Array, "keys"] | Float[Array, "keys classes"],  # noqa: F821
    config: MCLDConfig,
) -> tuple[Float[Array, "classes classes"], Bool[Array, "classes"]]:  # noqa: F821
    """Return the label-weighted mean key of each class, and which classes have a row.

    Means of the probabilities under ``"probability"``, of the raw logits otherwise. Rows that do
    not count come with a label of -2, or zeros, and with finite logits.
    """
    rows = logits
    if config.similarity == "probability":
        rows = key_vectors(ops, logits, "probability", config.key_temperature)
    membership = ops.matrix_transpose(one_hot(ops, labels, logits.shape[1], ops.dtype(logits)))
    total = ops.sum(membership, 1)
    present = total > NEGLIGIBLE
    return ops.matmul(membership, rows) / ops.where(present, total, 1.0)[:, None], present


def _check_key_logits(function: str, ops: Backend, logits: Array, student: Array) -> None:
    shape, classes = tuple(logits.shape), student.shape[1]
    if len(shape) != 2 or shape[1] != classes:
        raise ValueError(
            f"{function}: keys.logits need shape (keys, {classes}), with the classes of the "
            f"student; got {shape}. Map the teacher's classes first: mcld_core.select_classes"
        )
    if "float" not in ops.dtype(logits):
        raise TypeError(f"{function}: keys.logits need a float dtype; got {ops.dtype(logits)}")
    check_device(function, ops, "keys.logits", logits, student)


def _with_own_rows(
    ops: Backend, kept: Array | None, batch: Batch, own_start: Any, logits: Array
) -> Array:
    """Let each own key count exactly where its row of the batch does."""
    rows = ops.size(batch.student, 0)
    place = ops.arange(ops.size(logits, 0), logits) - own_start
    is_own = (place >= 0) & (place < rows)
    if batch.kept is None:
        return is_own | kept
    row = ops.minimum(ops.maximum(place, 0), rows - 1)
    own_kept = is_own & ops.take(batch.kept, row)
    others = ~is_own if kept is None else kept & ~is_own
    return own_kept | others


def _masked_labels(ops: Backend, labels: Array, kept: Array | None) -> Array:
    """Give the keys that do not count a label that no anchor has (anchors' own: 0 … or -1)."""
    if labels.ndim == 2:
        return keep_rows(ops, labels, kept)
    if kept is not None:
        labels = ops.where(kept, labels, -2)
    return ops.where(labels >= 0, labels, -2)

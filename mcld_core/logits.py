"""Helpers around the logits: an eager look for bad values, and class spaces that differ."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from mcld_core.arguments import check_logits, checked_pair, label_kind
from mcld_core.backends import backend_for
from mcld_core.config import check_choice
from mcld_core.formulas.similarity import SIMILARITIES
from mcld_core.typing import Array, Logits


def check_finite(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Any = None,
    *,
    similarity: str = "probability",
) -> None:
    """Raise on the first row that is not finite; warn where rows look like probabilities.

    Eager: it reads the values, from an accelerator too. Call it before training or when a loss
    goes wrong, not in every step. A teacher's -inf is a class of probability 0: it passes under
    the ``"probability"`` similarity, unless it stands at the label or is all that the row has;
    so does a student's -inf at such a class.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes).
        labels: (batch,) int, or (batch, classes) soft (their arg max counts); None: the
            teacher's arg max, which is never -inf beside a finite logit.
        similarity: that of the configuration in use; all but ``"probability"`` need every logit.

    Raises:
        ValueError: names the side, the first bad row, and its first bad class and value.
        ValueError, TypeError: arguments that do not fit, as the losses say it.

    Warns:
        UserWarning: all rows are ≥ 0 and sum to 1: probabilities, where logits are expected.

    Example:
        >>> import numpy as np
        >>> check_finite(2 * np.eye(2), np.array([[0.0, np.nan], [1.0, 0.0]]))
        Traceback (most recent call last):
        ...
        ValueError: check_finite: teacher_logits has nan in row 0, class 1; fix what makes them
    """
    check_choice("check_finite", "similarity", similarity, SIMILARITIES)
    ops = backend_for("check_finite", student_logits, teacher_logits, labels)
    student, teacher = checked_pair("check_finite", ops, student_logits, teacher_logits)
    if labels is not None:
        labels = ops.asarray(labels, student)
        label_kind("check_finite", "labels", ops, labels, *student.shape)
        labels = _to_numpy(labels)
    ours, theirs = _to_numpy(student), _to_numpy(teacher)
    absent = _absent_classes(theirs, labels) & (similarity == "probability")
    for argument, values in (("student_logits", ours), ("teacher_logits", theirs)):
        bad = ~np.isfinite(values) & ~(absent & np.isneginf(values))
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"check_finite: {argument} has {values[row, column]} in row {row}, class "
                f"{column}; fix what makes them"
            )
        if values.size and (values >= 0).all() and np.abs(values.sum(1) - 1).max() <= 1e-3:
            warnings.warn(
                f"check_finite: every row of {argument} is ≥ 0 and sums to 1, like "
                "probabilities; the losses take logits (pass log-probabilities at least)",
                UserWarning,
                stacklevel=2,
            )


def select_classes(logits: Logits, mapping: Sequence[int]) -> Array:
    """Map logits to another class space: column c of the result is column ``mapping[c]``.

    For a teacher that knows other or more classes than the student.

    Args:
        logits: (batch, classes).
        mapping: for each class of the result, the class of ``logits`` that it takes; none twice.

    Returns:
        (batch, len(mapping)) logits.

    Raises:
        ValueError: logits of another rank; a class that they do not have, or one twice.
        TypeError: logits that are not float, classes that are not int.

    Example:
        >>> import numpy as np
        >>> select_classes(np.array([[1.0, 2.0, 3.0]]), [2, 0])
        array([[3., 1.]])
    """
    ops = backend_for("select_classes", logits)
    logits = ops.asarray(logits)
    check_logits("select_classes", "logits", ops, logits)
    index = _checked_mapping(mapping, logits.shape[1])
    columns = ops.asarray(index, logits)
    return ops.matrix_transpose(ops.take(ops.matrix_transpose(logits), columns))


def _checked_mapping(mapping: Any, classes: int) -> np.ndarray[Any, Any]:
    index = np.asarray(mapping.tolist() if hasattr(mapping, "tolist") else mapping)
    if index.size and index.dtype.kind not in "iu":
        raise TypeError(
            f"select_classes: mapping needs a list of int classes; got {index.tolist()!r}"
        )
    if index.ndim != 1 or index.size == 0 or index.min() < 0 or index.max() >= classes:
        raise ValueError(
            f"select_classes: mapping needs a list of classes in 0 … {classes - 1}; "
            f"got {index.tolist()!r}"
        )
    values, counts = np.unique(index, return_counts=True)
    if counts.max() > 1:
        raise ValueError(
            f"select_classes: mapping needs each class once; got {values[counts.argmax()]} "
            f"{counts.max()} times, which would count its probability as often"
        )
    return index.astype("int32")


def _absent_classes(
    teacher: np.ndarray[Any, Any], labels: np.ndarray[Any, Any] | None
) -> np.ndarray[Any, Any]:
    """Return where a logit of -inf says that a class has probability 0."""
    absent = np.isneginf(teacher) & np.isfinite(teacher).any(1, keepdims=True)
    if labels is not None:
        targets = labels if labels.ndim == 1 else labels.argmax(1)
        absent &= np.arange(teacher.shape[1]) != targets[:, None]
    return absent


def _to_numpy(x: Array) -> np.ndarray[Any, Any]:
    if hasattr(x, "detach"):
        x = x.detach().cpu().float() if x.element_size() < 4 else x.detach().cpu()
    elif hasattr(x, "numpy"):
        x = x.numpy()
    return np.asarray(x, "float64")

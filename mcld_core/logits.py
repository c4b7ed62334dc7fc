"""Helpers around the logits: an eager look for bad values, and class spaces that differ."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mcld_core.arguments import Arguments, to_numpy, wide_dtype
from mcld_core.formulas.similarity import SIMILARITIES
from mcld_core.typing import Array, Float, Logits, Tensor

PROBABILITIES = (
    "every row of {} is ≥ 0 and sums to 1, like probabilities, and the loss takes logits. Leave "
    "out the softmax at the model's end (keras.applications: classifier_activation=None), or pass "
    "the logarithm of them"
)


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
        ValueError: check_finite: teacher_logits has nan in row 0, class 1. Mend what makes it
    """
    arguments = Arguments("check_finite", student_logits, teacher_logits, labels)
    arguments.choice("similarity", similarity, tuple(SIMILARITIES))
    student, teacher = arguments.pair(student_logits, teacher_logits)
    if labels is not None:
        labels = arguments.array("labels", labels, student)
        arguments.label_shape("labels", labels, *student.shape)
        labels = to_numpy(labels)
    sides = {"student_logits": to_numpy(student), "teacher_logits": to_numpy(teacher)}
    for is_finite, text in findings(sides, labels, None, SIMILARITIES[similarity].of_distributions):
        if not is_finite:
            raise ValueError(f"check_finite: {text}")
        warnings.warn(f"check_finite: {text}", UserWarning, stacklevel=2)


def select_classes(
    logits: list[Any] | Float[Tensor, "batch classes"], mapping: Sequence[int]
) -> Tensor:
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
    arguments = Arguments("select_classes", logits)
    ops = arguments.ops
    rows = arguments.array("logits", logits)
    arguments.logits("logits", rows)
    classes, index = rows.shape[1], np.asarray(getattr(mapping, "tolist", lambda: mapping)())
    if index.size and index.dtype.kind not in "iu":
        raise arguments.wrong_type("mapping needs a list of int classes", repr(index.tolist()))
    is_list = index.ndim == 1 and index.size > 0
    known = is_list and index.min() >= 0 and index.max() < classes
    if not known or len(np.unique(index)) < len(index):
        needs = f"mapping needs a list of classes in 0 … {classes - 1}, each once"
        raise arguments.wrong(needs, repr(index.tolist()))
    columns = ops.asarray(index.astype("int32"), rows)
    return ops.matrix_transpose(ops.take(ops.matrix_transpose(rows), columns))


def adjust_logits(
    logits: list[Any] | Float[Tensor, "batch classes"], class_prior: Float[Array, " classes"]
) -> Tensor:
    """Return ``logits + log π``: with them as the student's, a loss trains a balanced classifier.

    Pass the result to any loss in place of the student's logits (cross-entropy, `kd_loss`,
    `mcld_loss` with the same ``class_prior``). The loss then fits ``log p(y|x)`` by the adjusted
    logits, so the raw logits become ``log p(y|x) - log π``, which treats all classes alike.

    Args:
        logits: (batch, classes), any float dtype.
        class_prior: (classes,) ≥ 0: how often each class stands in the training labels, as counts
            or probabilities. A class with 0 counts half the smallest positive one.

    Returns:
        (batch, classes), float32 for half precision, else in the dtype of the logits.

    Raises:
        ValueError, TypeError: shapes, dtypes or values that do not fit.

    Example:
        >>> import numpy as np
        >>> adjust_logits(np.zeros((1, 2)), np.array([3, 1])).round(3)
        array([[-0.288, -1.386]])

    References:
        A. K. Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.
    """
    rows, log_prior = _with_prior("adjust_logits", logits, class_prior)
    return rows + log_prior


def balance_logits(
    logits: list[Any] | Float[Tensor, "batch classes"], class_prior: Float[Array, " classes"]
) -> Tensor:
    """Return ``logits - log π``: predictions that treat all classes alike, after the training.

    For a student that was trained without any adjustment: its logits fit ``log p(y|x)``, whose
    frequent classes win where a row is in doubt. It costs nothing; `adjust_logits` is the same
    correction during the training, with the same arguments, result and errors. A student of
    contrasts without a ``class_prior`` is partly balanced already, and is then corrected twice in
    part: compare on validation data.

    Example:
        >>> import numpy as np
        >>> balance_logits(np.zeros((1, 2)), np.array([3, 1])).round(3)
        array([[0.288, 1.386]])

    References:
        A. K. Menon et al., "Long-tail learning via logit adjustment", ICLR 2021 (post-hoc).
    """
    rows, log_prior = _with_prior("balance_logits", logits, class_prior)
    return rows - log_prior


def log_prior(
    arguments: Arguments, class_prior: Any, like: Logits, dtype: str
) -> Float[Array, " classes"]:
    """Return ``log π`` of counts or probabilities; a class of none counts half the least."""
    ops, each = arguments.ops, "one count or probability a class"
    prior = arguments.shaped("class_prior", class_prior, like, like.shape[1:], each)
    prior = ops.stop_gradient(ops.astype(prior, dtype))
    arguments.finite("class_prior", prior, None, 0.0, "class")
    values = ops.host_values(prior)
    if values is not None and not (values > 0).any():
        cure = "Pass the counts of the training labels"
        raise arguments.wrong("class_prior needs a positive entry", "zeros alone", cure)
    present = prior > 0
    least = -ops.max(ops.where(present, -prior, -float(np.finfo(dtype).max)), 0)
    counts = ops.where(present, prior, 0.5 * least)
    return ops.log(counts) - ops.log(ops.sum(counts, None))


def _with_prior(function: str, logits: Any, class_prior: Any) -> tuple[Any, Any]:
    """Return logits and ``log π`` (1, classes), checked, in the dtype that is computed in."""
    arguments = Arguments(function, logits)
    arguments.names, ops = ("logits",), arguments.ops
    like = class_prior if ops.is_tensor(class_prior) else None
    rows = arguments.array("logits", logits, like)
    arguments.logits("logits", rows)
    dtype = wide_dtype(ops.dtype(rows))
    prior = log_prior(arguments, class_prior, rows, dtype)
    return ops.astype(rows, dtype), prior[None, :]


def findings(
    sides: dict[str, Any], labels: Any, kept: Any, allows_absent: bool
) -> Iterator[tuple[bool, str]]:
    """Say what looks wrong about the kept rows of each side, and whether all is finite there.

    With ``allows_absent`` a teacher's logit of -inf, but at the label, is a class of probability 0.
    """
    teacher = sides["teacher_logits"]
    absent = np.isneginf(teacher) & np.isfinite(teacher).any(1, keepdims=True) & allows_absent
    if labels is not None:
        targets = labels if labels.ndim == 1 else labels.argmax(1)
        absent &= np.arange(teacher.shape[1]) != targets[:, None]
    kept = np.ones(len(teacher), bool) if kept is None else kept
    for argument, x in sides.items():
        if x is None:
            continue
        values = x.astype("float64")
        bad = ~np.isfinite(values) & ~(absent & np.isneginf(values)) & kept[:, None]
        rows = values[kept]
        if bad.any():
            row, column = np.argwhere(bad)[0]
            place = f"{values[row, column]} in row {row}, class {column}"
            yield False, f"{argument} has {place}. Mend what makes it"
            continue
        # as far as half precision can tell
        sums_to_one = rows.size and np.abs(rows.sum(1) - 1).max() <= 1e-2
        if rows.shape[1] > 1 and sums_to_one and (rows >= 0).all():
            yield True, PROBABILITIES.format(argument)

"""Helpers around the logits: an eager look for bad values, and class spaces that differ."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcld_core.arguments import Arguments, to_numpy, wide_dtype
from mcld_core.backends import Backend, backend_for
from mcld_core.config import MCLDConfig
from mcld_core.formulas.similarity import SIMILARITIES
from mcld_core.typing import Array, Float, Logits, Tensor


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
    arguments = Arguments("check_finite", student_logits, teacher_logits, labels)
    arguments.choice("similarity", similarity, tuple(SIMILARITIES))
    student, teacher = arguments.pair(student_logits, teacher_logits)
    if labels is not None:
        labels = arguments.ops.asarray(labels, student)
        arguments.label_kind("labels", labels, *student.shape)
        labels = _to_numpy(labels)
    ours, theirs = _to_numpy(student), _to_numpy(teacher)
    absent = _absent_classes(theirs, labels) & SIMILARITIES[similarity].of_distributions
    for argument, values in (("student_logits", ours), ("teacher_logits", theirs)):
        bad = _first_bad(argument, values, absent)
        if bad is not None:
            raise ValueError(f"check_finite: {bad}; fix what makes them")
        if _are_probabilities(values, 1e-3):
            warnings.warn(
                f"check_finite: every row of {argument} is ≥ 0 and sums to 1, like "
                "probabilities; the losses take logits (pass log-probabilities at least)",
                UserWarning,
                stacklevel=2,
            )


def batch_warnings(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Any = None,
    where: Any = None,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
) -> list[str] | None:
    """Return what looks wrong about a batch that a loss has taken, each with its cure.

    For the adapters, which look at their first step: logits that are not finite, and rows that
    look like probabilities. What stands in rows that are dropped does not count. None where the
    teacher's values cannot be read without waiting: traced, or on an accelerator. (A student that
    is traced alone, as by ``jax.grad``, is left out.)
    """
    ops = backend_for("batch_warnings", student_logits, teacher_logits, labels, where)
    sides = {"student_logits": student_logits, "teacher_logits": teacher_logits}
    found = {argument: _readable(ops, x) for argument, x in sides.items()}
    theirs = found["teacher_logits"]
    if theirs is None:
        return None
    labels, where = _readable(ops, labels), _readable(ops, where)
    kept = np.ones(len(theirs), bool) if where is None else where
    if labels is not None and labels.ndim == 1:
        kept = kept & (labels != config.ignore_index)
    absent = _absent_classes(theirs, labels) & config.compares_distributions
    texts = []
    for argument, values in found.items():
        if values is not None:
            half = "float16" in str(getattr(sides[argument], "dtype", ""))  # bfloat16 too
            tolerance = 1e-2 if half else 1e-3
            texts += _warnings_of(argument, values.astype("float64"), kept, absent, tolerance)
    return texts


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
    rows = ops.asarray(logits)
    arguments.logits("logits", rows)
    index = _checked_mapping(mapping, rows.shape[1])
    columns = ops.asarray(index, rows)
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
    correction during the training. A student of contrasts without a ``class_prior`` is partly
    balanced already, and is then corrected twice in part: compare on validation data.

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
        >>> balance_logits(np.zeros((1, 2)), np.array([3, 1])).round(3)
        array([[0.288, 1.386]])

    References:
        A. K. Menon et al., "Long-tail learning via logit adjustment", ICLR 2021 (post-hoc).
    """
    rows, log_prior = _with_prior("balance_logits", logits, class_prior)
    return rows - log_prior


def _with_prior(function: str, logits: Any, class_prior: Any) -> tuple[Any, Any]:
    """Return logits and ``log π`` (1, classes), checked, in the dtype that is computed in."""
    arguments = Arguments(function, logits)
    ops = arguments.ops
    rows = ops.asarray(logits, class_prior if ops.is_tensor(class_prior) else None)
    arguments.logits("logits", rows)
    dtype = wide_dtype(ops.dtype(rows))
    prior = arguments.log_prior(class_prior, rows.shape[1], rows, dtype)
    return ops.astype(rows, dtype), prior[None, :]


def checked_prior(function: str, class_prior: Any, balanced: Any) -> NDArray[Any] | None:
    """Return the class prior of a loss that keeps it, as (classes,) float32 of NumPy; or None.

    Raise for values that do not fit, and for ``balanced`` without a prior, or not a bool.
    """
    arguments = Arguments(function)
    arguments.flag("balanced", balanced)
    if class_prior is None:
        if balanced:
            raise ValueError(
                f"{function}: balanced=True needs class_prior; got None. Pass the counts of the "
                "training labels"
            )
        return None
    values = _to_numpy(class_prior)
    arguments.log_prior(values, values.size, values, "float64")  # for its checks
    return values.astype("float32")


def _checked_mapping(mapping: Any, classes: int) -> NDArray[Any]:
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


def _absent_classes(teacher: NDArray[Any], labels: NDArray[Any] | None) -> NDArray[Any]:
    """Return where a logit of -inf says that a class has probability 0."""
    absent = np.isneginf(teacher) & np.isfinite(teacher).any(1, keepdims=True)
    if labels is not None:
        targets = labels if labels.ndim == 1 else labels.argmax(1)
        absent &= np.arange(teacher.shape[1]) != targets[:, None]
    return absent


def _warnings_of(
    argument: str, values: NDArray[Any], kept: NDArray[Any], absent: NDArray[Any], tolerance: float
) -> list[str]:
    bad = _first_bad(argument, np.where(kept[:, None], values, 0.0), absent)
    if bad is not None:
        return [
            f"{bad}: the loss is not a number to learn from. Mend what makes it; "
            "mcld_core.check_finite finds the first such row"
        ]
    if _are_probabilities(values[kept], tolerance):
        return [
            f"every row of {argument} is ≥ 0 and sums to 1, like probabilities, and the loss takes "
            "logits. Leave out the softmax at the model's end (keras.applications: "
            "classifier_activation=None), or pass the logarithm of the probabilities"
        ]
    return []


def _readable(ops: Backend, x: Any) -> NDArray[Any] | None:
    """Return the values of what can be read without waiting for a device."""
    if x is None:
        return None
    return ops.host_values(x) if ops.is_tensor(x) else np.asarray(x)


def _first_bad(argument: str, values: NDArray[Any], allowed: NDArray[Any]) -> str | None:
    """Say where the first entry is that is not finite and not an allowed -inf."""
    bad = np.argwhere(~np.isfinite(values) & ~(allowed & np.isneginf(values)))
    if not len(bad):
        return None
    row, column = bad[0]
    return f"{argument} has {values[row, column]} in row {row}, class {column}"


def _are_probabilities(values: NDArray[Any], tolerance: float) -> bool:
    """Whether every row is ≥ 0 and sums to 1."""
    if not values.size or values.shape[1] < 2 or (values < 0).any():
        return False
    return bool(np.abs(values.sum(1) - 1).max() <= tolerance)


def _to_numpy(x: Array) -> NDArray[Any]:
    return to_numpy(x).astype("float64")

"""Several teachers as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcld_core.backends import backend_for
from mcld_core.extensions.teachers.quality import TeacherQuality
from mcld_core.extensions.teachers.rows import (
    TeacherRows,
    like_of,
    log_softmax,
    one_number,
    row_weights,
    teacher_rows,
)
from mcld_core.formulas.contrast import MASKED
from mcld_core.typing import Array, Bool, Float, Logits, Scalar


def ensemble(
    logits_list: Sequence[Logits],
    *,
    weights: Sequence[Scalar | Float[Array, "batch"]] | None = None,  # noqa: F821
    where: Sequence[Bool[Array, "batch"] | None] | None = None,  # noqa: F821
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
        ValueError, TypeError: no teacher, sequences of different lengths, shapes that differ, a
            weight below 0.

    Example:
        >>> import numpy as np
        >>> sure, unsure = np.log(np.array([[0.9, 0.1]])), np.log(np.array([[0.5, 0.5]]))
        >>> np.exp(ensemble([sure, unsure], weights=[3, 1])).round(3)
        array([[0.8, 0.2]])

    References:
        S. You et al., "Learning from Multiple Teacher Networks", KDD 2017.
    """
    function = "ensemble"
    count = len(logits_list)
    if not count:
        raise ValueError(f"{function}: logits_list needs at least one teacher; got none")
    for name, values in (("weights", weights), ("where", where), ("temperatures", temperatures)):
        if values is not None and len(values) != count:
            raise ValueError(
                f"{function}: {name} needs one entry a teacher, {count}; got {len(values)}"
            )
    if space not in ("probability", "logits"):
        raise ValueError(f"{function}: space needs 'probability' or 'logits'; got {space!r}")
    weights = [1.0] * count if weights is None else weights
    masks: Sequence[Any] = [None] * count if where is None else where
    temperatures = [1.0] * count if temperatures is None else temperatures
    for name, numbers in (("weights", weights), ("temperatures", temperatures)):
        for number in numbers:
            _check_number(function, name, number, above_zero=name == "temperatures")

    ops = backend_for(function, *logits_list, *weights, *masks, *temperatures)
    like = like_of(ops, *logits_list, *weights, *masks, *temperatures)
    given = [ops.asarray(x, like) for x in logits_list]
    dtype = "float64" if "float64" in [ops.dtype(x) for x in given] else "float32"
    teachers: list[TeacherRows] = []
    for rows, mask in zip(given, masks, strict=True):
        teacher = teacher_rows(
            function, ops, rows, None, mask, like=like, dtype=dtype, argument="each of logits_list"
        )
        if tuple(rows.shape) != tuple(given[0].shape):
            raise ValueError(
                f"{function}: logits_list needs arrays of one shape; got {tuple(given[0].shape)} "
                f"and {tuple(rows.shape)}. Map the classes first: mcld_core.select_classes"
            )
        teachers.append(teacher)

    shares = [
        row_weights(function, ops, "weights", weight, teacher.kept, teacher.logits, dtype)
        for teacher, weight in zip(teachers, weights, strict=True)
    ]
    total = _sum(shares)
    present = total > 0
    total = ops.where(present, total, 1.0)[:, None]
    scaled = [
        t.logits / one_number(function, ops, "temperatures", temperature, t.logits, dtype)
        for t, temperature in zip(teachers, temperatures, strict=True)
    ]
    if space == "logits":
        parts = [
            ops.where((share > 0)[:, None], share[:, None] * z, 0.0)
            for share, z in zip(shares, scaled, strict=True)
        ]
        mean = _sum(parts) / total
    else:
        parts = []
        for share, z in zip(shares, scaled, strict=True):
            log_p = ops.maximum(log_softmax(ops, ops.maximum(z, MASKED)), MASKED)
            counts = share > 0
            log_share = ops.log(ops.where(counts, share, 1.0))
            parts.append(ops.where(counts[:, None], log_p + log_share[:, None], MASKED))
        peak = parts[0]
        for part in parts[1:]:
            peak = ops.where(part > peak, part, peak)
        mean = ops.log(_sum([ops.exp(part - peak) for part in parts])) + peak - ops.log(total)
    logits = ops.where(present[:, None], mean, 0.0)
    return (logits, present) if return_where else logits


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
        ValueError: a power below 0.

    Example:
        >>> import numpy as np
        >>> rows, right = np.eye(3), np.arange(3)
        >>> qualities = [TeacherQuality.from_logits(rows, y) for y in (right, right[::-1].copy())]
        >>> [float(weight) for weight in quality_weights(qualities)]
        [1.0, 0.0]
    """
    if not power >= 0:
        raise ValueError(f"quality_weights: power needs a number ≥ 0; got {power!r}")
    return [quality.competence**power for quality in qualities]


def _check_number(function: str, name: str, number: Any, above_zero: bool) -> None:
    if not isinstance(number, (int, float)):
        return
    if not (number > 0 if above_zero else number >= 0):
        wanted = "> 0" if above_zero else "≥ 0"
        raise ValueError(f"{function}: {name} needs numbers {wanted}; got {number!r}")


def _sum(arrays: Sequence[Array]) -> Array:
    total = arrays[0]
    for array in arrays[1:]:
        total = total + array
    return total

"""Several teachers as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcld_core.arguments import fits, ratio, wide_dtype
from mcld_core.extensions._terms import LEAST, log_of
from mcld_core.extensions.teachers.arguments import TeacherArguments, log_sum
from mcld_core.extensions.teachers.quality import TeacherQuality, check_quality
from mcld_core.typing import Array, Bool, Float, Logits, Scalar


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
    shares, scaled = [], []
    for m, x in enumerate(given):
        teacher = arguments.teacher(f"logits_list[{m}]", x, masks[m], dtype)
        tau = arguments.scalar(f"temperatures[{m}]", temperatures[m], x, dtype, above=0.0)
        share = arguments.one_a_row(f"weights[{m}]", weights[m], teacher.kept, dtype, minimum=0.0)
        shares.append(share)
        scaled.append(teacher.logits / ops.stop_gradient(tau))
    total: Any = sum(shares)
    present, parts = total > 0, []
    for share, z in zip(shares, scaled, strict=True):
        if space == "logits":
            parts.append(ops.where((share > 0)[:, None], share[:, None] * z, 0.0))
        else:
            log_p = ops.at_least(ops.log_softmax(ops.at_least(z, LEAST), 1), LEAST)
            log_p = log_p + log_of(ops, share)[:, None]
            parts.append(ops.where((share > 0)[:, None], log_p, LEAST))
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

"""Trusting a teacher as far as labels bear it out: weights, repaired rows, adapted settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mcld_core.arguments import check_reduction, prepare, reduce_rows
from mcld_core.backends import Backend, backend_for
from mcld_core.config import MCLDConfig
from mcld_core.extensions.teachers.quality import TeacherQuality
from mcld_core.extensions.teachers.rows import (
    TeacherRows,
    clip01,
    like_of,
    log_softmax,
    one_number,
    row_numbers,
    target_class,
    teacher_rows,
)
from mcld_core.formulas.contrast import MASKED, one_hot
from mcld_core.keys import TeacherKeys, check_keys
from mcld_core.losses import mcld_loss
from mcld_core.typing import Array, Bool, Float, Labels, Logits, Reduction, Scalar


def reliability_weights(
    teacher_logits: Logits,
    labels: Labels,
    quality: TeacherQuality | None = None,
    *,
    temperature: Scalar = 0.25,
    strength: Scalar = 1.0,
    where: Bool[Array, "batch"] | None = None,  # noqa: F821
    ignore_index: int = -100,
) -> Any:
    """Return how far each row of a teacher can be trusted, 0 … 1, from the labels.

    ``r_i = 1 − κ (1 − Q_y σ( (t_iy − max_{c≠y} t_ic) / τ ))`` with y the label of row i. The
    margin of the label over its best rival says whether the teacher agrees on this row (τ → 0:
    1 or 0); ``Q_y = clip((a_y − 1/C) / (1 − 1/C), 0, 1)`` with a_y the measured accuracy of the
    class says how often it is right there (1 without ``quality``). r rises with the margin and
    with the accuracy. κ is a schedule: 0 trusts the teacher blindly.

    Args:
        teacher_logits: (batch, classes), any float dtype.
        labels: (batch,) int, or (batch, classes) soft, whose arg max counts. They must be more
            reliable than the teacher: r measures disagreement with them.
        quality: of this teacher, best measured on a validation set.
        temperature: τ > 0, in units of a logit.
        strength: κ in 0 … 1, perhaps `anneal` of the training's progress.
        where: (batch,) bool, True = keep.
        ignore_index: rows with this int label have no label to be measured against.

    Returns:
        (batch,), float32 (float64 for float64 logits), without a gradient; 0 in dropped rows.

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> teacher = np.array([[4.0, 0.0], [4.0, 0.0], [1.0, 1.0]])
        >>> reliability_weights(teacher, np.array([0, 1, 0])).round(3)
        array([1. , 0. , 0.5])
    """
    function = "reliability_weights"
    _check_above_zero(function, "temperature", temperature)
    _check_unit(function, "strength", strength)
    numbers = (temperature, strength)
    measured = () if quality is None else tuple(quality)
    ops = backend_for(function, teacher_logits, labels, where, *measured, *numbers)
    like = like_of(ops, teacher_logits, labels, where, *measured)
    rows = teacher_rows(
        function, ops, teacher_logits, labels, where, like=like, ignore_index=ignore_index
    )
    tau, kappa = (
        one_number(function, ops, name, x, rows.logits, rows.dtype)
        for name, x in (("temperature", temperature), ("strength", strength))
    )
    target = target_class(ops, rows.labels)
    trust = _sigmoid(ops, _margin(ops, rows, target) / tau)
    if quality is not None:
        trust = trust * _at_label(function, ops, quality, target, rows)
    has_label = ops.astype(rows.kept & (target >= 0), rows.dtype)
    return has_label * (1.0 - kappa * (1.0 - trust))


def repair_rows(
    teacher_logits: Logits,
    labels: Labels,
    reliability: Float[Array, "batch"],  # noqa: F821
    *,
    smoothing: Scalar = 0.1,
    where: Bool[Array, "batch"] | None = None,  # noqa: F821
    ignore_index: int = -100,
) -> Any:
    """Return a teacher's logits with the untrusted part of each row replaced by its label.

    ``log( r_i softmax(t_i) + (1 − r_i) ((1 − ε) y_i + ε / C) )``: a row that is trusted (r = 1)
    keeps its distribution, one that is not (r = 0) becomes a label-smoothed one-hot, with which
    the contrasts are a cross-entropy with the label. So anchors *and* keys are repaired, where a
    weight on the loss would still leave wrong rows among the keys of the others.

    Args:
        teacher_logits: (batch, classes), any float dtype.
        labels: (batch,) int, or (batch, classes) soft.
        reliability: (batch,) in 0 … 1, such as `reliability_weights`; clipped to that.
        smoothing: ε in 0 … 1.
        where: (batch,) bool, True = keep; other rows come out uniform, whatever they hold.
        ignore_index: rows with this int label stay the teacher's.

    Returns:
        (batch, classes) log probabilities, float32 (float64 for float64 logits), without a
        gradient: the ``teacher_logits`` of `mcld_core.mcld_loss`, a bank or `kd_loss`.

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> wrong = np.log(np.array([[0.8, 0.2]]))
        >>> np.exp(repair_rows(wrong, np.array([1]), np.array([0.25]))).round(4)
        array([[0.2375, 0.7625]])

    References:
        S. Reed et al., "Training Deep Neural Networks on Noisy Labels with Bootstrapping", 2014
        (mixing label and prediction, there to mend the label).
    """
    function = "repair_rows"
    _check_unit(function, "smoothing", smoothing)
    ops = backend_for(function, teacher_logits, labels, reliability, where, smoothing)
    like = like_of(ops, teacher_logits, labels, reliability, where)
    rows = teacher_rows(
        function, ops, teacher_logits, labels, where,
        like=like, ignore_index=ignore_index, drop_ignored=False,
    )  # fmt: skip
    eps = one_number(function, ops, "smoothing", smoothing, rows.logits, rows.dtype)
    trust = row_numbers(function, ops, "reliability", reliability, rows.logits, rows.dtype)
    classes = rows.logits.shape[1]
    zeros = 0.0 * ops.astype(rows.kept, rows.dtype)
    labelled = rows.kept & (target_class(ops, rows.labels) >= 0)
    trust = ops.where(labelled, clip01(ops, zeros + trust), 1.0)[:, None]
    soft = one_hot(ops, rows.labels, classes, rows.dtype)
    own = _log(ops, trust) + ops.maximum(log_softmax(ops, rows.logits), MASKED)
    label = _log(ops, 1.0 - trust) + _log(ops, (1.0 - eps) * soft + eps / classes)
    own, label = ops.maximum(own, MASKED), ops.maximum(label, MASKED)
    peak = ops.where(own > label, own, label)
    return ops.log(ops.exp(own - peak) + ops.exp(label - peak)) + peak


def adapt(config: MCLDConfig, quality: TeacherQuality, *, power: float = 1.0) -> MCLDConfig:
    """Return settings in which a teacher of low quality counts less, and the labels more.

    With ``q = competence^power``, 0 … 1: ``w_ins ← q w_ins``, ``w_sam ← q w_sam``,
    ``w_ce ← w_ce + (1 − q) w_ins``; the category-wise term, whose positives come from the labels,
    stays. So q = 1 changes nothing, and at q = 0 the teacher's rows are only keys of that term.

    Args:
        config: the settings for a perfect teacher.
        quality: of the teacher.
        power: ≥ 0; above 1 distrusts sooner.

    Returns:
        A new `MCLDConfig`. Its weights are Python numbers where the quality can be read (so it
        is hashable), else traced.

    Raises:
        ValueError: a power below 0.

    Example:
        >>> import numpy as np
        >>> half_right = np.array([[1.0, 0, 0], [1, 0, 0]]), np.array([0, 1])
        >>> adapt(MCLDConfig(), TeacherQuality.from_logits(*half_right)).weight_instance
        0.25
    """
    if not power >= 0:
        raise ValueError(f"adapt: power needs a number ≥ 0; got {power!r}")
    ops = backend_for("adapt", *quality)
    competence = quality.competence**power
    value = ops.host_values(competence)
    q = competence if value is None else float(value)
    return replace(
        config,
        weight_instance=q * config.weight_instance,
        weight_sample=q * config.weight_sample,
        weight_ce=config.weight_ce + (1.0 - q) * config.weight_instance,
    )


def adaptive_mcld_loss(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels,
    *,
    reliability: Float[Array, "batch"],  # noqa: F821
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    keys: TeacherKeys | None = None,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, "batch"] | None = None,  # noqa: F821
    where: Bool[Array, "batch"] | None = None,  # noqa: F821
    reduction: Reduction = "mean",
) -> Any:
    """Weigh, row by row, the terms that rest on the teacher against those that rest on labels.

    ``L_i = r_i (w_ins L_ins,i + w_sam L_sam,i) + ramp w_cat L_cat,i
    + (w_ce + (1 − r_i) w_ins) L_ce,i``: with r = 1 it is `mcld_core.mcld_loss`. It only weighs;
    `repair_rows` also mends the keys.

    Args:
        student_logits: (batch, classes), any float dtype.
        teacher_logits: (batch, classes); never receives a gradient.
        labels: (batch,) int, or (batch, classes) soft.
        reliability: (batch,) r in 0 … 1, such as `reliability_weights`; clipped to that.
        config, keys, progress, sample_weight, where, reduction: as in `mcld_core.mcld_loss`.

    Returns:
        The loss, float32 (float64 for float64 logits).

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> student, teacher, labels = np.eye(3), 5 * np.eye(3), np.arange(3)
        >>> r = reliability_weights(teacher, labels)
        >>> round(float(adaptive_mcld_loss(student, teacher, labels, reliability=r)), 4)
        1.6071
    """
    function = "adaptive_mcld_loss"
    check_reduction(function, reduction)
    check_keys(function, keys)
    key_arrays = () if keys is None else (keys.logits, keys.labels, keys.where, keys.prototypes)
    values = (student_logits, teacher_logits, labels, reliability, sample_weight, where)
    ops = backend_for(function, *values, *key_arrays)
    batch = prepare(
        function, ops, student_logits, teacher_logits, labels, sample_weight, where,
        config.ignore_index,
    )  # fmt: skip
    trust = row_numbers(function, ops, "reliability", reliability, batch.student, batch.dtype)
    zeros = 0.0 * ops.astype(ops.arange(ops.size(batch.student, 0), batch.student), batch.dtype)
    trust = clip01(ops, zeros + trust)

    def rows(weight: Array | None, instance: bool, category: bool, ce: Scalar) -> Array:
        return mcld_loss(
            batch.student,
            batch.teacher,
            labels,
            config=replace(
                config,
                weight_instance=config.weight_instance if instance else 0.0,
                weight_sample=config.weight_sample if instance else 0.0,
                weight_category=config.weight_category if category else 0.0,
                weight_ce=ce,
            ),
            keys=keys,
            progress=progress,
            sample_weight=weight,
            where=where,
            reduction="none",
        )

    total = (
        rows(trust, True, False, 0.0)
        + rows(None, False, True, config.weight_ce)
        + rows(1.0 - trust, False, False, config.weight_instance)
    )
    return reduce_rows(ops, total, batch, reduction, None if keys is None else keys.normalizer)


def anneal(progress: Scalar, first: float = 0.0, last: float = 1.0, until: float = 1.0) -> Any:
    """Return a number that goes from ``first`` to ``last`` linearly while progress goes to until.

    For the ``strength`` of `reliability_weights`, the ``q`` of `bounded`, an EMA decay …

    Args:
        progress: the part of the training that is done, 0 to 1, a number or a traced array.
        first: the value at progress 0.
        last: the value from ``until`` on.
        until: > 0.

    Returns:
        A number of Python, or an array where the progress is one.

    Raises:
        ValueError: ``until`` not above 0.

    Example:
        >>> [anneal(progress, 0.0, 0.5, until=0.5) for progress in (0.0, 0.25, 1.0)]
        [0.0, 0.25, 0.5]
    """
    if not until > 0:
        raise ValueError(f"anneal: until needs a number > 0; got {until!r}")
    if isinstance(progress, (int, float)):
        return first + (last - first) * min(max(progress / until, 0.0), 1.0)
    ops = backend_for("anneal", progress)
    return first + (last - first) * clip01(ops, progress / until)


def _margin(ops: Backend, rows: TeacherRows, target: Array) -> Float[Array, "batch"]:  # noqa: F821
    """Return how far the target's logit lies above its best rival (far, without a rival)."""
    classes = ops.arange(rows.logits.shape[1], target)
    is_target = classes[None, :] == target[:, None]
    own = ops.sum(ops.where(is_target, rows.logits, 0.0), 1)
    return own - ops.max(ops.where(is_target, MASKED, rows.logits), 1)


def _at_label(
    function: str, ops: Backend, quality: TeacherQuality, target: Array, rows: TeacherRows
) -> Float[Array, "batch"]:  # noqa: F821
    """Return the competence of each row's class."""
    classes = rows.logits.shape[1]
    if quality.rows.shape[0] != classes:
        raise ValueError(
            f"{function}: quality counts {quality.rows.shape[0]} classes and teacher_logits have "
            f"{classes}; measure the quality on logits of these classes"
        )
    quality = TeacherQuality(*(ops.asarray(x, rows.logits) for x in quality))
    competence = ops.astype(quality.class_competence, rows.dtype)
    return ops.sum(one_hot(ops, target, classes, rows.dtype) * competence[None, :], 1)


def _sigmoid(ops: Backend, x: Array) -> Array:
    return ops.exp(-ops.softplus(-x))


def _log(ops: Backend, x: Array) -> Array:
    """Return log x, and `MASKED` where x is 0."""
    positive = x > 0
    return ops.where(positive, ops.log(ops.where(positive, x, 1.0)), MASKED)


def _check_above_zero(function: str, name: str, value: Any) -> None:
    if isinstance(value, (int, float)) and not value > 0:
        raise ValueError(f"{function}: {name} needs a number > 0; got {value!r}")


def _check_unit(function: str, name: str, value: Any) -> None:
    if isinstance(value, (int, float)) and not 0 <= value <= 1:
        raise ValueError(f"{function}: {name} needs a number in 0 … 1; got {value!r}")

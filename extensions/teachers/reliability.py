"""Trusting a teacher as far as labels bear it out: weights, repaired rows, adapted settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mcld_core.arguments import Batch, TeacherBatch, is_number, ratio, wide_dtype
from mcld_core.backends import Backend
from mcld_core.config import MCLDConfig, check_config
from mcld_core.extensions.teachers.arguments import TeacherArguments, clip01
from mcld_core.extensions.teachers.quality import TeacherQuality, check_quality
from mcld_core.formulas.contrast import one_hot
from mcld_core.formulas.divergence import MASKED, masked_log, raised, target_class
from mcld_core.formulas.objective import is_zero
from mcld_core.keys import TeacherKeys, check_keys, key_arrays
from mcld_core.losses import Objective, evaluate_batch, term_weights
from mcld_core.typing import Array, Bool, Float, Int, Labels, Logits, Reduction, Scalar, Tensor


def reliability_weights(
    teacher_logits: list[Any] | Float[Tensor, "batch classes"],
    labels: Labels,
    quality: TeacherQuality | None = None,
    *,
    temperature: Scalar = 0.25,
    strength: Scalar = 1.0,
    where: Bool[Array, " batch"] | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Return how far each row of a teacher can be trusted, 0 … 1, as the labels judge it.

    ``r_i = 1 − κ (1 − Q_y σ( (t_iy − max_{c≠y} t_ic) / τ ))`` with y the label of row i.

    - The margin of the label over its best rival says whether the teacher agrees with the label
      on this row. Where τ → 0 the sigmoid is 1 or 0.
    - ``Q_y = clip((a_y − 1/C) / (1 − 1/C), 0, 1)``, with a_y the measured accuracy in class y,
      says how often the teacher is right there. Without ``quality`` it is 1.
    - κ is a schedule: at 0 every row is trusted, r = 1.

    Args:
        teacher_logits: (batch, classes), any float dtype.
        labels: (batch,) int, or (batch, classes) soft, whose arg max counts. They must be more
            reliable than the teacher, for r measures how far it disagrees with them.
        quality: of this teacher; measure it on a validation set.
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
    if quality is not None:
        check_quality(function, "quality", quality)
    arguments = TeacherArguments(
        function, teacher_logits, labels, where, *(quality or ()), temperature, strength
    )
    ops = arguments.ops
    rows = arguments.labelled_teacher(teacher_logits, labels, where, ignore_index)
    dtype = ops.dtype(rows.logits)
    tau = arguments.scalar("temperature", temperature, rows.logits, dtype, above=0.0)
    kappa = arguments.scalar("strength", strength, rows.logits, dtype, maximum=1.0)
    target = target_class(ops, rows.labels)
    trust = ops.exp(ops.log_sigmoid(_margin(ops, rows.logits, target) / tau))
    if quality is not None:
        trust = trust * _at_label(arguments, quality, target, rows)
    has_label = ops.astype(rows.kept & (target >= 0), dtype)
    return ops.stop_gradient(has_label * (1.0 - kappa * (1.0 - trust)))


def repair_rows(
    teacher_logits: list[Any] | Float[Tensor, "batch classes"],
    labels: Labels,
    reliability: Float[Array, " batch"],
    *,
    smoothing: Scalar = 0.1,
    where: Bool[Array, " batch"] | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Return a teacher's logits with the untrusted part of each row replaced by its label.

    ``log( r_i softmax(t_i) + (1 − r_i) ((1 − ε) y_i + ε / C) )``. A trusted row (r = 1) keeps its
    distribution. An untrusted row (r = 0) becomes the smoothed one-hot of its label; with such
    rows the contrasts are a cross-entropy with the label. This repairs the keys too: with a weight
    on the loss the wrong rows would stay among the keys of all others.

    Args:
        teacher_logits: (batch, classes), any float dtype.
        labels: (batch,) int, or (batch, classes) soft.
        reliability: (batch,) in 0 … 1, such as `reliability_weights`; clipped to that.
        smoothing: ε in 0 … 1.
        where: (batch,) bool, True = keep; other rows come out uniform, whatever they hold.
        ignore_index: rows with this int label keep the teacher's distribution.

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
        (it mixes label and prediction, too, but to mend the label).
    """
    arguments = TeacherArguments(
        "repair_rows", teacher_logits, labels, reliability, where, smoothing
    )
    ops = arguments.ops
    labelled = arguments.labelled_teacher(teacher_logits, labels, where, ignore_index)
    logits = arguments.teacher("teacher_logits", teacher_logits, where).logits
    classes, dtype = logits.shape[1], ops.dtype(logits)
    eps = arguments.scalar("smoothing", smoothing, logits, dtype, maximum=1.0)
    has_label = labelled.kept & (target_class(ops, labelled.labels) >= 0)
    trust = arguments.one_a_row("reliability", reliability, has_label, dtype)
    trust = ops.where(has_label, clip01(ops, trust), 1.0)[:, None]
    soft = one_hot(ops, labelled.labels, classes, dtype)
    soft = (1.0 - eps) * soft + eps / classes
    own = raised(ops, masked_log(ops, trust) + raised(ops, ops.log_softmax(logits, 1)))
    label = raised(ops, masked_log(ops, 1.0 - trust) + masked_log(ops, soft))
    peak = ops.maximum(own, label)
    repaired = ops.log(ops.exp(own - peak) + ops.exp(label - peak)) + peak
    return ops.stop_gradient(repaired)


def adapt_config(config: MCLDConfig, quality: TeacherQuality, *, power: float = 1.0) -> MCLDConfig:
    """Return settings in which a teacher of low quality counts less, and the labels more.

    With ``q = competence^power``, 0 … 1: ``w_ins ← q w_ins``, ``w_sam ← q w_sam``,
    ``w_ce ← w_ce + (1 − q) w_ins``. The category-wise term keeps its weight, for its positives
    come from the labels. So q = 1 changes nothing; at q = 0 the teacher's rows only serve as keys
    of the category-wise term.

    Args:
        config: the settings for a perfect teacher.
        quality: of the teacher.
        power: ≥ 0; the higher it is, the less a teacher of middling quality counts.

    Returns:
        A new `MCLDConfig`. Where the quality can be read its weights are Python numbers, so that
        it is hashable; else they are traced.

    Raises:
        ValueError, TypeError: what is not an `MCLDConfig` or a `TeacherQuality`, or a power that
            is not a number ≥ 0.

    Example:
        >>> import numpy as np
        >>> half_right = np.array([[1.0, 0, 0], [1, 0, 0]]), np.array([0, 1])
        >>> adapt_config(MCLDConfig(), TeacherQuality.from_logits(*half_right)).weight_instance
        0.25
    """
    function = "adapt_config"
    check_config(function, config)
    check_quality(function, "quality", quality)
    arguments = TeacherArguments(function, *quality)
    arguments.number("power", power, minimum=0.0)
    competence = quality.competence**power
    value = arguments.ops.host_values(competence)
    q = competence if value is None else float(value)
    return replace(
        config,
        weight_instance=q * config.weight_instance,
        weight_sample=q * config.weight_sample,
        weight_ce=config.weight_ce + (1.0 - q) * config.weight_instance,
    )


def adaptive_mcld_loss(
    student_logits: list[Any] | Float[Tensor, "batch classes"],
    teacher_logits: Logits,
    labels: Labels,
    *,
    reliability: Float[Array, " batch"],
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    keys: TeacherKeys | None = None,
    class_prior: Float[Array, " classes"] | None = None,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Bool[Array, " batch"] | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Weigh, row by row, the terms that rest on the teacher against those that rest on labels.

    ``L_i = r_i (w_ins L_ins,i + w_sam L_sam,i) + ramp w_cat L_cat,i
    + (w_ce + (1 − r_i) w_ins) L_ce,i``. Where r = 1 it is `mcld_core.mcld_loss`. The keys stay
    as they are: `repair_rows` mends those too.

    Args:
        student_logits, teacher_logits: as in `mcld_core.mcld_loss`.
        labels: (batch,) int, or (batch, classes) soft; never None.
        reliability: (batch,) r in 0 … 1, such as `reliability_weights`; clipped to that.
        config, keys, class_prior, progress, sample_weight, where, reduction: as there; so are
            result and errors.

    Example:
        >>> import numpy as np
        >>> student, teacher, labels = np.eye(3), 5 * np.eye(3), np.arange(3)
        >>> r = reliability_weights(teacher, labels)
        >>> round(float(adaptive_mcld_loss(student, teacher, labels, reliability=r)), 4)
        1.6071
    """
    function = "adaptive_mcld_loss"
    check_config(function, config)
    check_keys(function, keys)
    rows = (student_logits, teacher_logits, labels, sample_weight, where)
    arguments = TeacherArguments(function, *rows, reliability, *key_arrays(keys))
    arguments.reduction(reduction)
    arguments.required_labels(labels)
    batch = arguments.batch(rows, config.ignore_index)
    factors = _factors(arguments, reliability, batch, config)
    weights = term_weights(config)
    weights = weights._replace(ce=weights.ce + weights.instance)
    objective = Objective(config, weights, keys, class_prior, progress, factors=factors)
    return evaluate_batch(arguments, batch, objective, reduction)


def anneal(progress: Scalar, first: float = 0.0, last: float = 1.0, until: float = 1.0) -> Any:
    """Return a number that goes from ``first`` to ``last`` linearly while progress goes to until.

    For the ``strength`` of `reliability_weights`, the ``q`` of `bounded_loss`, an EMA decay …

    Args:
        progress: the part of the training that is done, 0 to 1, a number or a traced array.
        first: the value at progress 0.
        last: the value from ``until`` on.
        until: > 0.

    Returns:
        A number of Python, or an array where the progress is one.

    Raises:
        ValueError, TypeError: a progress that is not one number in 0 … 1, an ``until`` that is not
            above 0, ends that are not numbers.

    Example:
        >>> [anneal(progress, 0.0, 0.5, until=0.5) for progress in (0.0, 0.25, 1.0)]
        [0.0, 0.25, 0.5]
    """
    arguments = TeacherArguments("anneal", progress)
    arguments.number("until", until, above=0.0)
    arguments.number("first", first)
    arguments.number("last", last)
    arguments.number("progress", progress, minimum=0.0, maximum=1.0)
    if is_number(progress):
        return first + (last - first) * min(progress / until, 1.0)
    ops = arguments.ops
    given = ops.asarray(progress)
    part = arguments.scalar("progress", given, given, wide_dtype(ops.dtype(given)), maximum=1.0)
    return first + (last - first) * clip01(ops, part / until)


def _factors(
    arguments: TeacherArguments, reliability: Any, batch: Batch, config: MCLDConfig
) -> Float[Array, "batch terms"]:
    """Return what each row's terms are multiplied by: r, r, 1, and for the cross-entropy
    ``(w_ce + (1 - r) w_ins) / (w_ce + w_ins) = 1 - r w_ins / (w_ce + w_ins)``.
    """
    ops, dtype = arguments.ops, batch.dtype
    every = ops.arange(ops.size(batch.student, 0), batch.student) >= 0
    kept = every if batch.kept is None else batch.kept
    trust = clip01(ops, arguments.one_a_row("reliability", reliability, kept, dtype))
    total = config.weight_ce + config.weight_instance
    if is_zero(total):  # no cross-entropy at all
        share = total
    else:
        total = ops.astype(ops.asarray(total, trust), dtype)
        instance = ops.astype(ops.asarray(config.weight_instance, trust), dtype)
        share = ratio(ops, instance, total)
    one = 0.0 * trust + 1.0
    rows = [factor[None, :] for factor in (trust, trust, one, one - share * trust)]
    return ops.matrix_transpose(ops.concat(rows))


def _margin(
    ops: Backend, logits: Float[Array, "batch classes"], target: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """Return how far the target's logit lies above its best rival (far, without a rival)."""
    classes = ops.arange(logits.shape[1], target)
    is_target = classes[None, :] == target[:, None]
    own = ops.sum(ops.where(is_target, logits, 0.0), 1)
    return own - ops.max(ops.where(is_target, MASKED, logits), 1)


def _at_label(
    arguments: TeacherArguments,
    quality: TeacherQuality,
    target: Int[Array, " batch"],
    rows: TeacherBatch,
) -> Float[Array, " batch"]:
    """Return the competence of each row's class."""
    ops, classes, dtype = arguments.ops, rows.logits.shape[1], arguments.ops.dtype(rows.logits)
    if quality.rows.shape[0] != classes:
        raise ValueError(
            f"{arguments.function}: quality counts {quality.rows.shape[0]} classes and "
            f"teacher_logits have {classes}; measure the quality on logits of these classes"
        )
    quality = TeacherQuality(*(ops.asarray(x, rows.logits) for x in quality))
    competence = ops.astype(quality.class_competence, dtype)
    return ops.sum(one_hot(ops, target, classes, dtype) * competence[None, :], 1)

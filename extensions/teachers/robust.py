"""Teachers that are not reliable: weights, repaired rows, weighed terms, bounded losses."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from mcld_core import MCLDConfig, TeacherKeys, mcld_loss
from mcld_core.arguments import (
    MASKED,
    Arguments,
    both_kept,
    clip01,
    keep_rows,
    log_of,
    one_hot,
    reduce_rows,
    target_class,
    wide_dtype,
)
from mcld_core.extensions.teachers.quality import (
    TeacherQuality,
    check_quality,
    ensemble,
    one_a_row,
    required_labels,
    teacher_rows,
)
from mcld_core.typing import Array, Bool, Float, Labels, Logits, Reduction, Scalar, Tensor

ROUNDING = 1e-3
"""How far below 0 a loss may come out by rounding."""


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
        strength: κ in 0 … 1, perhaps the training's progress.
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
    measured = quality if isinstance(quality, TeacherQuality) else ()
    given = teacher_logits, labels, where, *measured, temperature, strength
    arguments = Arguments("reliability_weights", *given)
    ops = arguments.ops
    rows = teacher_rows(arguments, teacher_logits, where, (labels, ignore_index))
    dtype = ops.dtype(rows.logits)
    tau = arguments.scalar("temperature", temperature, rows.logits, dtype, above=0.0)
    kappa = arguments.scalar("strength", strength, rows.logits, dtype, maximum=1.0)
    target = target_class(ops, rows.labels)
    is_label = one_hot(ops, target, rows.logits.shape[1], dtype)
    own = ops.sum(is_label * rows.logits, 1)
    margin = own - ops.max(ops.where(is_label > 0, MASKED, rows.logits), 1)  # far, without a rival
    trust = ops.exp(ops.log_sigmoid(margin / tau))
    if quality is not None:
        check_quality("reliability_weights", "quality", quality, rows.logits.shape[1])
        quality = TeacherQuality(*(ops.asarray(x, rows.logits) for x in quality))
        competence = ops.astype(quality.class_competence, dtype)
        trust = trust * ops.sum(is_label * competence[None, :], 1)
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
        teacher_logits, labels: as in `reliability_weights`; so are the errors.
        reliability: (batch,) in 0 … 1, such as `reliability_weights`; clipped to that.
        smoothing: ε in 0 … 1.
        where: (batch,) bool, True = keep; other rows come out uniform, whatever they hold.
        ignore_index: rows with this int label keep the teacher's distribution.

    Returns:
        (batch, classes) log probabilities, float32 (float64 for float64 logits), without a
        gradient: the ``teacher_logits`` of `mcld_core.mcld_loss`, a bank or `kd_loss`.

    Example:
        >>> import numpy as np
        >>> wrong = np.log(np.array([[0.8, 0.2]]))
        >>> np.exp(repair_rows(wrong, np.array([1]), np.array([0.25]))).round(4)
        array([[0.2375, 0.7625]])

    References:
        S. Reed et al., "Training Deep Neural Networks on Noisy Labels with Bootstrapping", 2014
        (it mixes label and prediction, too, but to mend the label).
    """
    arguments = Arguments("repair_rows", teacher_logits, labels, reliability, where, smoothing)
    ops = arguments.ops
    labelled = teacher_rows(arguments, teacher_logits, where, (labels, ignore_index))
    logits = teacher_rows(arguments, teacher_logits, where).logits
    classes, dtype = logits.shape[1], ops.dtype(logits)
    eps = arguments.scalar("smoothing", smoothing, logits, dtype, maximum=1.0)
    has_label = labelled.kept & (target_class(ops, labelled.labels) >= 0)
    trust = one_a_row(arguments, "reliability", reliability, has_label, dtype)
    trust = ops.where(has_label, clip01(ops, trust), 1.0)
    label = (1.0 - eps) * one_hot(ops, labelled.labels, classes, dtype) + eps / classes
    return ensemble([logits, log_of(ops, label)], weights=[trust, 1.0 - trust])


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
    + (w_ce + (1 − r_i) w_ins) L_ce,i``: a sum of `mcld_core.mcld_loss` with r and 1 − r as sample
    weights. Where r = 1 it is `mcld_core.mcld_loss`. The keys stay as they are: `repair_rows` mends
    those too.

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
    logits = student_logits, teacher_logits, labels
    arrays = (*logits, reliability, sample_weight, where)
    arguments = Arguments("adaptive_mcld_loss", *arrays, getattr(keys, "logits", None))
    arguments.settings(config, MCLDConfig)
    arguments.reduction(reduction)
    required_labels(arguments, labels)
    batch = arguments.batch((*logits, sample_weight, where), config.ignore_index)
    ops, dtype = arguments.ops, batch.dtype
    kept = both_kept(ops.arange(ops.size(batch.student, 0), batch.student) >= 0, batch.kept)
    trust = clip01(ops, one_a_row(arguments, "reliability", reliability, kept, dtype))
    given = {"keys": keys, "class_prior": class_prior, "progress": progress, "where": where}
    weighed: Any = partial(mcld_loss, *logits, reduction="none", **given)
    by_teacher = replace(config, weight_category=0.0, weight_ce=0.0)
    untrusted = config.only(ce=config.weight_instance)
    by_label = config.only(category=config.weight_category, ce=config.weight_ce)
    found = weighed(config=by_teacher, sample_weight=trust)
    found = found + weighed(config=untrusted, sample_weight=1.0 - trust)
    found = found + weighed(config=by_label)
    normalizer = None if keys is None else keys.normalizer
    return reduce_rows(ops, found, batch.weight, reduction, normalizer)


def bounded_loss(
    rows: list[Any] | Float[Tensor, " batch"],
    q: Scalar,
    *,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Bool[Array, " batch"] | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Bound the loss of each row: ``(1 − exp(−q L_i)) / q``, at most 1/q; q → 0 is L itself.

    Its derivative is ``exp(−q L_i)`` times that of L: the higher the loss of a row, the less the
    row pulls. On a cross-entropy this is the generalised cross-entropy ``(1 − p^q) / q``. It works
    without labels that are better than the teacher. But a loss that starts high learns slowly:
    let q rise from 0 during the training.

    Args:
        rows: (batch,) losses ≥ 0: any loss of the library with ``reduction="none"`` and *without*
            ``sample_weight``; pass the weights here, for they belong outside the bound. A loss
            below 0 is an error where it can be read; elsewhere it comes out unchanged.
        q: ≥ 0, a number or a zero-dimensional array.
        sample_weight, where, reduction: as in `mcld_core.mcld_loss`; so are the errors.

    Returns:
        The reduced loss, float32 (float64 for float64 rows); it has the gradient.

    Example:
        >>> import numpy as np
        >>> bounded_loss(np.array([0.0, 1.0, 50.0]), 0.5, reduction="none").round(4)
        array([0.    , 0.7869, 2.    ])

    References:
        Z. Zhang, M. Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks
        with Noisy Labels", NeurIPS 2018.
    """
    arguments = Arguments("bounded_loss", rows, sample_weight, where, q)
    arguments.reduction(reduction)
    arguments.names = ("rows",)
    ops = arguments.ops
    losses: Any = arguments.array("rows", rows, arguments.like)
    if len(losses.shape) != 1 or "float" not in ops.dtype(losses):
        needs = "rows needs shape (batch,) and a float dtype, a loss with reduction='none'"
        raise arguments.wrong(needs, f"shape {tuple(losses.shape)}, {ops.dtype(losses)}")
    dtype = wide_dtype(ops.dtype(losses))
    kept = arguments.mask("where", where, losses)
    weight = arguments.weight(sample_weight, kept, losses, dtype)
    losses = keep_rows(ops, ops.astype(losses, dtype), kept)
    values = ops.host_values(losses)
    if values is not None and (values < -ROUNDING).any():
        row = int(np.argmax(values < -ROUNDING))
        cure = "Check its sign. Of category_contrast='columns', which may be < 0, bound the rest"
        raise arguments.wrong("rows needs losses ≥ 0", f"{values[row]} in row {row}", cure)
    q = ops.stop_gradient(arguments.scalar("q", q, losses, dtype))
    bounded = (q > 0) & (losses > 0)  # L itself at q = 0, and below 0, where rounding may bring it
    x = ops.where(bounded, q * ops.where(q > 0, losses, 0.0), 0.0)
    losses = ops.where(bounded, -ops.expm1(-x) / ops.where(q > 0, q, 1.0), losses)
    return reduce_rows(ops, losses, weight, reduction)


def outlier_weights(
    teacher_logits: list[Any] | Float[Tensor, "batch classes"],
    labels: Labels,
    *,
    cutoff: Scalar = 0.5,
    where: Bool[Array, " batch"] | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Return how well each teacher row resembles the others of its label, 0 … 1.

    ``w_i = min(1, cos(p_i, m_i) / cutoff)``, with p = softmax(t) and m_i the mean of p over the
    other rows of the same label (soft labels: weighted by their affinity). A row that looks like
    its class has exactly 1, and so has the only row of a label. All statistics are those of the
    teacher's rows given: a batch will do, the whole training set at once is better. It finds
    single wrong rows, but not a teacher that is wrong in a whole class.

    Args:
        teacher_logits, labels: as in `reliability_weights`; so are the errors.
        cutoff: the cosine below which a row is weighed down, 0 < cutoff ≤ 1.
        where: (batch,) bool, True = keep.
        ignore_index: rows with this int label are left out.

    Returns:
        (batch,), to pass as ``sample_weight`` or as the ``reliability`` of `repair_rows`; float32
        (float64 for float64 logits), without a gradient; 0 in dropped rows.

    Example:
        >>> import numpy as np
        >>> teacher = 9 * np.eye(2)[[0, 0, 0, 1]]
        >>> outlier_weights(teacher, np.array([0, 0, 0, 0])).round(2)
        array([1., 1., 1., 0.])
    """
    arguments = Arguments("outlier_weights", teacher_logits, labels, where, cutoff)
    ops = arguments.ops
    rows = teacher_rows(arguments, teacher_logits, where, (labels, ignore_index))
    dtype = ops.dtype(rows.logits)
    cutoff = arguments.scalar("cutoff", cutoff, rows.logits, dtype, above=0.0, maximum=1.0)
    kept = rows.weight[:, None]
    p = kept * ops.softmax(rows.logits, 1)
    label = kept * one_hot(ops, rows.labels, rows.logits.shape[1], dtype)
    sums = ops.matmul(ops.matrix_transpose(label), p)
    own = ops.sum(label * label, 1, keepdims=True)  # the affinity of a row with itself
    others = ops.maximum(ops.matmul(label, sums) - own * p, 0.0)
    mass = ops.matmul(label, ops.sum(label, 0)[:, None]) - own
    length = ops.sqrt(ops.sum(p * p, 1) * ops.sum(others * others, 1))
    alone = (mass[:, 0] <= 1e-6) | (length <= 0)
    cosine = ops.sum(p * others, 1) / ops.where(alone, 1.0, length)
    weights = rows.weight * ops.where(alone, 1.0, clip01(ops, cosine / cutoff))
    return ops.stop_gradient(weights)

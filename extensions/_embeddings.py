"""The contrasts on embeddings, whose width is not the number of classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mcld_core.arguments import Arguments, Batch, both_kept, differ, keep_rows, wide_dtype
from mcld_core.config import MCLDConfig, check_config
from mcld_core.formulas.objective import TermWeights
from mcld_core.losses import Objective, evaluate_batch, term_weights
from mcld_core.typing import Array, Bool, Float, Labels, Reduction, Scalar, Tensor


def embedding_contrast(
    student: list[Any] | Float[Tensor, "batch width"],
    teacher: Float[Array, "batch width"],
    labels: Labels | None = None,
    *,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    temperature: Scalar = 0.07,
    logit_scale: Scalar | None = None,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Bool[Array, " batch"] | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Contrast embeddings instance- and category-wise: ``S_ij = scale · cos(s_i, t_j)``.

    ``L_i = w_ins L_ins,i + ramp w_cat L_cat,i``, the terms of `mcld_core.mcld_loss` with this S.
    An embedding has no entry a class, so there is no sample-wise term and no cross-entropy. Of
    the config, ``similarity``, ``temperature`` and ``block_size`` play no part.

    Args:
        student: (batch, width), any float dtype.
        teacher: (batch, width); never receives a gradient.
        labels: (batch,) int ids ≥ 0, or (batch, any) soft labels, whose rows sum to 1. A row with
            a negative id is dropped. None: no target mask and no category-wise term. Ids beyond
            32 bits need 64-bit integers: in JAX ``jax_enable_x64``.
        config: weights, target mask and warm-up.
        temperature: > 0; the scale is 1 / temperature where ``logit_scale`` is None.
        logit_scale: the scale itself, > 0. It may be trained: keep its logarithm as the parameter
            and pass the exponential. Its gradient is ``Σ_ij dL/dS_ij · cos_ij``.
        progress: the part of the training that is done, 0 to 1.
        sample_weight: (batch,) ≥ 0.
        where: (batch,) bool, True = keep; a dropped row is compared with nothing.
        reduction: as in `mcld_core.mcld_loss`; so are result and errors.

    Example:
        >>> import numpy as np
        >>> round(float(embedding_contrast(np.eye(2), np.eye(2), logit_scale=1.0)), 4)
        0.3133

    References:
        A. Radford et al., "Learning Transferable Visual Models From Natural Language
        Supervision", ICML 2021.
    """
    function = "embedding_contrast"
    check_config(function, config)
    arguments = Arguments(
        function, student, teacher, labels, temperature, logit_scale, sample_weight, where
    )
    arguments.reduction(reduction)
    batch = embedding_batch(arguments, (student, teacher), labels, sample_weight, where)
    objective = Objective(config, term_weights(config), progress=progress)
    return contrast_embeddings(arguments, batch, objective, logit_scale, temperature, reduction)


def embedding_batch(
    arguments: Arguments,
    embeddings: tuple[Any, Any],
    labels: Any,
    sample_weight: Any = None,
    where: Any = None,
) -> Batch:
    """Return the student's and teacher's embeddings with what comes beside them, checked.

    Int labels are ids ≥ 0, negative in dropped rows; or None.
    """
    ops = arguments.ops
    student, teacher = pair_of_rows(arguments, ("student", "teacher"), embeddings)
    dtype = wide_dtype(ops.dtype(student))
    kept = arguments.mask("where", where, student, "student")
    if labels is not None:
        given, labels = labels, arguments.array("labels", labels, student)
        if labels.ndim == 2:
            labels = _soft_labels(arguments, labels, student, kept)
        else:
            labels = arguments.ids("labels", given, student)
            kept = both_kept(kept, labels >= 0)
    weight = arguments.weight(sample_weight, kept, student, dtype, "student")
    return Batch(student, ops.stop_gradient(teacher), dtype, labels, kept, weight)


def pair_of_rows(
    arguments: Arguments, names: tuple[str, str], given: tuple[Any, Any]
) -> tuple[Float[Array, "batch width"], Float[Array, "batch width"]]:
    """Return both rows, converted; raise unless they are floats of one batch and one width."""
    function, ops = arguments.function, arguments.ops
    student = arguments.array(names[0], given[0], arguments.like)
    teacher = arguments.array(names[1], given[1], student)
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    one_batch = len(ours) == 2 and len(theirs) == 2 and not differ(ours[0], theirs[0])
    if not one_batch or not ours[1] or differ(ours[1], theirs[1]):
        raise ValueError(
            f"{function}: {' and '.join(names)} need shape (batch, width), one batch and one "
            f"width; got {ours} and {theirs}. Project one of them in the model: the loss has no "
            "projector"
        )
    for name, x in zip(names, (student, teacher), strict=True):
        if "float" not in ops.dtype(x):
            raise TypeError(f"{function}: {name} needs a float dtype; got {ops.dtype(x)}")
    arguments.device(names[1], teacher, student, names[0])
    return student, teacher


def contrast_embeddings(
    arguments: Arguments,
    batch: Batch,
    objective: Objective,
    logit_scale: Scalar | None,
    temperature: Scalar = 0.07,
    reduction: Reduction = "none",
) -> Array:
    """Evaluate the two contrasts by cosine, whose temperature is 1 / scale, with its gradient."""
    ops, config, like = arguments.ops, objective.config, batch.student
    tau = arguments.scalar("temperature", temperature, like, batch.dtype, above=0.0)
    if logit_scale is not None:
        tau = 1.0 / arguments.scalar("logit_scale", logit_scale, like, batch.dtype, above=0.0)
    weights = TermWeights(objective.weights.instance, category=objective.weights.category)
    if batch.labels is None:
        batch = batch._replace(labels=ops.arange(ops.size(like, 0), like))
        config, weights = replace(config, target_mask=False), weights._replace(category=0.0)
    config = replace(
        config,
        similarity="cosine",
        temperature=tau,
        category_contrast="labels",
        block_size=None,
    )
    objective = objective._replace(config=config, weights=weights)
    return evaluate_batch(arguments, batch, objective, reduction)


def _soft_labels(
    arguments: Arguments, labels: Array, student: Array, kept: Bool[Array, " batch"] | None
) -> Float[Array, "batch any"]:
    """Return soft labels of any width, 0 in the rows that do not count."""
    ops = arguments.ops
    if differ(labels.shape[0], student.shape[0]):
        raise ValueError(
            f"{arguments.function}: labels need shape ({student.shape[0]},) for ids or "
            f"({student.shape[0]}, any) for soft labels; got {tuple(labels.shape)}"
        )
    arguments.device("labels", labels, student, "student")
    arguments.label_values("labels", labels, kept, labels.shape[1], -100)
    labels = ops.stop_gradient(ops.astype(labels, wide_dtype(ops.dtype(student))))
    return keep_rows(ops, labels, kept)

"""The contrasts on embeddings, whose width is no number of classes."""

from __future__ import annotations

from typing import Any

from mcld_core.arguments import Batch, check_device, check_reduction, check_rows, reduce_rows
from mcld_core.backends import Backend, backend_for
from mcld_core.config import MCLDConfig
from mcld_core.extensions._arguments import fits, row_ids
from mcld_core.extensions.teachers.rows import like_of, row_weights
from mcld_core.formulas.contrast import MASKED, category_rows, instance_rows
from mcld_core.formulas.similarity import embed
from mcld_core.schedule import category_ramp, check_progress
from mcld_core.typing import Array, Bool, Float, Labels, Reduction, Scalar


def embedding_contrast(
    student: Float[Array, "batch width"],
    teacher: Float[Array, "batch width"],
    labels: Labels | None = None,
    *,
    config: MCLDConfig = MCLDConfig(),  # noqa: B008  (frozen)
    temperature: Scalar = 0.07,
    logit_scale: Scalar | None = None,
    progress: Scalar = 1.0,
    sample_weight: Float[Array, "batch"] | None = None,  # noqa: F821
    where: Bool[Array, "batch"] | None = None,  # noqa: F821
    reduction: Reduction = "mean",
) -> Any:
    """Contrast embeddings instance- and category-wise: ``S_ij = scale · cos(s_i, t_j)``.

    ``L_i = w_ins L_ins,i + ramp w_cat L_cat,i``, the terms of `mcld_core.mcld_loss` with this S.
    An embedding has no class entries, hence no sample-wise term, cross-entropy or ramp of its
    own; ``similarity``, ``temperature`` and ``block_size`` of the config play no part.

    Args:
        student: (batch, width), any float dtype.
        teacher: (batch, width); never receives a gradient.
        labels: (batch,) int ids ≥ 0 (negative: dropped), or (batch, any) soft, or None: no target
            mask and no category-wise term. Ids beyond 32 bits need 64-bit integers: in JAX
            ``jax_enable_x64``.
        config: weights, target mask and warm-up.
        temperature: the scale is 1 / temperature, where ``logit_scale`` is None.
        logit_scale: the scale itself. As a zero-dimensional array of the framework it receives a
            gradient, ``Σ_ij dL/dS_ij · cos_ij``: keep its logarithm as the parameter and pass the
            exponential.
        progress: the part of the training that is done, 0 to 1.
        sample_weight: (batch,) ≥ 0.
        where: (batch,) bool, True = keep; a dropped row is neither anchor nor key.
        reduction: as in `mcld_core.mcld_loss`.

    Returns:
        The loss, float32 (float64 for float64 embeddings).

    Raises:
        ValueError, TypeError: what does not fit, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> round(float(embedding_contrast(np.eye(2), np.eye(2), logit_scale=1.0)), 4)
        0.3133

    References:
        A. Radford et al., "Learning Transferable Visual Models From Natural Language
        Supervision", ICML 2021.
    """
    function = "embedding_contrast"
    check_reduction(function, reduction)
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise ValueError(f"{function}: temperature needs a number > 0; got {temperature!r}")
    given = (student, teacher, labels, logit_scale, sample_weight, where)
    ops = backend_for(function, *given)
    rows = ops.asarray(student, like_of(ops, *given))
    keys = ops.asarray(teacher, rows)
    ours, theirs = tuple(rows.shape), tuple(keys.shape)
    if len(ours) != 2 or len(theirs) != 2 or not fits(ours[1:], theirs[1:]):
        raise ValueError(
            f"{function}: student and teacher need shape (batch, width), one width; got {ours} and "
            f"{theirs}. Project one of them in the model: the loss has no projector"
        )
    if not fits(ours, theirs):
        raise ValueError(
            f"{function}: student and teacher need the same batch; got {ours} and {theirs}"
        )
    for name, x in (("student", rows), ("teacher", keys)):
        if "float" not in ops.dtype(x):
            raise TypeError(f"{function}: {name} needs a float dtype; got {ops.dtype(x)}")
    check_device(function, ops, "teacher", keys, rows)
    dtype = "float64" if ops.dtype(rows) == "float64" else "float32"
    kept, labels = _rows_and_labels(function, ops, rows, labels, where, dtype)
    rows = ops.where(kept[:, None], ops.astype(rows, dtype), 0.0)
    keys = ops.where(kept[:, None], ops.stop_gradient(ops.astype(keys, dtype)), 0.0)

    cosine = ops.matmul(
        embed(ops, rows, "cosine").rows, ops.matrix_transpose(embed(ops, keys, "cosine").rows)
    )
    scale = 1.0 / temperature if logit_scale is None else logit_scale
    if not isinstance(scale, (int, float)):
        scale = ops.astype(ops.asarray(scale, rows), dtype)
    s = ops.where(kept[None, :], scale * cosine, MASKED)
    own = ops.arange(ops.size(rows, 0), rows)
    same = None if labels is None else _affinity(ops, labels, kept)
    loss = (
        config.weight_instance * instance_rows(ops, s, same if config.target_mask else None, own)[0]
    )
    if same is not None:
        check_progress(function, ops, progress, rows)
        ramp = category_ramp(ops, progress, config.category_warmup, dtype, like=rows)
        loss = loss + ramp * config.weight_category * category_rows(ops, s, same)[0]
    loss = ops.where(kept, loss, 0.0)
    weight = ops.astype(kept, dtype)
    if sample_weight is not None:
        weight = row_weights(function, ops, "sample_weight", sample_weight, kept, rows, dtype)
    return reduce_rows(ops, loss, Batch(loss, loss, dtype, None, None, weight), reduction)


def _rows_and_labels(
    function: str, ops: Backend, rows: Array, labels: Any, where: Any, dtype: str
) -> tuple[Array, Array | None]:
    """Return which rows count, and the labels, int or soft."""
    kept = ops.arange(ops.size(rows, 0), rows) >= 0
    if where is not None:
        kept = ops.asarray(where, rows)
        check_rows(function, "where", kept, rows.shape[0])
        if ops.dtype(kept) != "bool":
            raise TypeError(
                f"{function}: where needs dtype bool (True = keep); got {ops.dtype(kept)}"
            )
        check_device(function, ops, "where", kept, rows)
    if labels is None:
        return kept, None
    given, labels = labels, ops.asarray(labels, rows)
    check_device(function, ops, "labels", labels, rows)
    if labels.ndim == 2:
        labels = ops.stop_gradient(ops.astype(labels, dtype))
        return kept, ops.where(kept[:, None], labels, 0.0)
    labels = row_ids(function, ops, "labels", given, rows)
    return kept & (labels >= 0), labels


def _affinity(ops: Backend, labels: Array, kept: Array) -> Array:
    """Return which rows share a label (bool), or how far soft labels agree; no key dropped."""
    if labels.ndim == 1:
        return (labels[:, None] == labels[None, :]) & kept[None, :]
    inner = ops.matmul(labels, ops.matrix_transpose(labels))
    return ops.minimum(ops.maximum(inner, 0.0), 1.0)

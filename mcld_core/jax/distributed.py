"""Teacher rows of all replicas as keys, inside ``jax.shard_map``."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mcld_core.arguments import Arguments
from mcld_core.keys import TeacherKeys
from mcld_core.typing import Array, Bool, Float, Labels, Logits


def gather_keys(
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    axis_name: str | Sequence[str],
    sample_weight: Float[Array, " batch"] | None = None,
    where: Bool[Array, " batch"] | None = None,
    ignore_index: int = -100,
) -> TeacherKeys:
    """Gather the teacher's rows of all replicas, so that each contrasts with the joined batch.

    Call it inside ``shard_map`` (or under ``vmap(..., axis_name=...)``) with the arguments that
    the loss gets. ``reduction="mean"`` then divides by ``(Σ v over all replicas) / R``, so that
    the plain mean over the R replicas, ``lax.pmean``, of loss and gradient is that of the joined
    batch on one device. Only the teacher's side crosses replicas, hence no gradient does.

    All replicas have the same number of rows; fill a shorter last batch up with rows that
    ``where`` drops. A replica without a kept row contributes 0 and breaks nothing.

    Several processes run one program, as JAX demands of all that they do together: the number of
    classes, the dtypes, and whether there are labels, are the same on each. Nothing compares them:
    a process may trace a function when the others have it compiled, and would wait for them.

    Args:
        teacher_logits: (batch, classes), this replica's rows, any float dtype.
        labels: (batch,) int, or (batch, classes) soft, or None: the teacher's arg max.
        axis_name: the name of the mesh axis (or axes) that the batch is split over.
        sample_weight, where: (batch,) numbers ≥ 0 and bool, as given to the loss.
        ignore_index: rows with this int label are dropped; as in the loss's `MCLDConfig`.

    Returns:
        Keys of R · batch rows, ``own_start`` and ``normalizer`` set. With them
        ``category_contrast="columns"`` raises, because the student would have to cross replicas.

    Raises:
        ValueError, TypeError: shapes, dtypes or labels that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from mcld_core import mcld_loss
        >>> def loss(student, teacher, labels):
        ...     keys = gather_keys(teacher, labels, axis_name="data")
        ...     return jax.lax.pmean(mcld_loss(student, teacher, labels, keys=keys), "data")
        >>> logits, labels = jnp.eye(4), jnp.arange(4)
        >>> halves = logits.reshape(2, 2, 4), 5 * logits.reshape(2, 2, 4), labels.reshape(2, 2)
        >>> two = jax.vmap(loss, axis_name="data")(*halves)
        >>> bool(jnp.allclose(two[0], mcld_loss(logits, 5 * logits, labels), rtol=1e-6))
        True
    """
    name = axis_name if isinstance(axis_name, str) else tuple(axis_name)
    teacher = jax.lax.stop_gradient(jnp.asarray(teacher_logits))
    arguments = Arguments("gather_keys", teacher, labels, sample_weight, where)
    checked = arguments.teacher_batch(teacher, (labels, sample_weight, where), ignore_index)
    has_int_labels = checked.labels is not None and checked.labels.ndim == 1
    return TeacherKeys(
        logits=_all_rows(teacher, name),
        labels=None if labels is None else _all_rows(checked.labels, name),
        where=_all_rows(checked.kept, name) if has_int_labels or where is not None else None,
        own_start=jax.lax.axis_index(name) * teacher.shape[0],
        normalizer=jax.lax.pmean(jnp.sum(checked.weight), name),
    )


def _all_rows(x: Array, name: str | tuple[str, ...]) -> Array:
    return jax.lax.all_gather(x, name, axis=0, tiled=True)

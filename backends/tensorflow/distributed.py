"""Teacher rows of all replicas as keys, in a ``tf.distribute`` replica context."""

from __future__ import annotations

import tensorflow as tf

from mcld_core.arguments import Arguments
from mcld_core.keys import TeacherKeys
from mcld_core.typing import Array, Bool, Float, Labels, Logits


def gather_keys(
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    sample_weight: Float[Array, " batch"] | None = None,
    where: Bool[Array, " batch"] | None = None,
    ignore_index: int = -100,
) -> TeacherKeys:
    """Gather the teacher's rows of all replicas, so that each contrasts with the joined batch.

    Call it in the function that ``strategy.run`` runs, with the arguments that the loss gets.
    ``reduction="mean"`` then divides by ``(Σ v over all replicas) / R``, so that the plain mean
    over the R replicas of loss and gradient is that of the joined batch on one device. Optimizers
    *sum* the replicas' gradients: divide the loss by ``strategy.num_replicas_in_sync``. Only the
    teacher's side crosses replicas, hence no gradient does.

    Replicas may have different numbers of rows, as in a last batch; shorter ones are padded to
    the largest with rows that do not count. A replica without a kept row contributes 0. Without
    a strategy the batch is gathered from itself.

    Args:
        teacher_logits: (batch, classes), this replica's rows, any float dtype.
        labels: (batch,) int, or (batch, classes) soft, or None: the teacher's arg max.
        sample_weight: (batch,) ≥ 0, as given to the loss.
        where: (batch,) bool, True = keep, as given to the loss.
        ignore_index: rows with this int label are dropped; as in the loss's `MCLDConfig`.

    Returns:
        Keys of R · largest batch rows, ``own_start`` and ``normalizer`` set. With them
        ``category_contrast="columns"`` raises, because the student would have to cross replicas.

    Raises:
        RuntimeError: called outside of a replica context.
        ValueError, TypeError: shapes, dtypes or labels that do not fit.

    Example:
        >>> import tensorflow as tf
        >>> keys = gather_keys(tf.eye(3), tf.range(3), where=tf.constant([True, True, False]))
        >>> keys.logits.shape, int(keys.own_start), float(keys.normalizer)
        (TensorShape([3, 3]), 0, 2.0)
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        raise RuntimeError(
            "gather_keys: needs a replica context; got the cross-replica context of the strategy. "
            "Call it inside the function given to strategy.run"
        )
    teacher = tf.stop_gradient(tf.convert_to_tensor(teacher_logits))
    arguments = Arguments("gather_keys", teacher, labels, sample_weight, where)
    checked = arguments.teacher_batch(
        "teacher_logits",
        teacher,
        labels,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
    )
    rows = tf.shape(teacher)[0]
    largest = tf.reduce_max(context.all_gather(rows[None], axis=0))

    def all_rows(x: Array) -> Array:
        """Pad to the largest replica; a padded row is 0, hence False in the mask."""
        padding = [[0, largest - rows]] + [[0, 0]] * (len(x.shape) - 1)
        gathered = context.all_gather(tf.pad(x, padding), axis=0)
        return tf.ensure_shape(gathered, [None, *x.shape[1:]])  # the collective forgets it

    return TeacherKeys(
        # the collectives know no bfloat16
        logits=all_rows(tf.cast(teacher, tf.float32) if teacher.dtype == tf.bfloat16 else teacher),
        labels=None if labels is None else all_rows(checked.labels),
        where=tf.cast(all_rows(tf.cast(checked.kept, tf.int32)), tf.bool),
        own_start=tf.cast(context.replica_id_in_sync_group, tf.int32) * largest,
        normalizer=context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.reduce_sum(checked.weight)),
    )

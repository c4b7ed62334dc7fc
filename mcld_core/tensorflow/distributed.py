"""Teacher rows of all replicas as keys, in a ``tf.distribute`` replica context."""

from __future__ import annotations

from typing import Any

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
        sample_weight, where: (batch,) numbers ≥ 0 and bool, as given to the loss.
        ignore_index: rows with this int label are dropped; as in the loss's `MCLDConfig`.

    Returns:
        Keys of R · largest batch rows, ``own_start`` and ``normalizer`` set. With them
        ``category_contrast="columns"`` raises, because the student would have to cross replicas.

    Raises:
        RuntimeError: called outside of a replica context.
        ValueError, TypeError: shapes, dtypes or labels that do not fit.
        ValueError: another number of classes, dtype or kind of labels on another replica. Between
            workers it is a ``tf.errors.InvalidArgumentError`` with the same text.

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
    checked = arguments.teacher_batch(teacher, (labels, sample_weight, where), ignore_index)
    rows = tf.shape(teacher)[0]
    largest = tf.reduce_max(_agreed_sizes(context, teacher, checked.labels))

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


_WANTED = (
    "gather_keys: the number of classes, the dtype of teacher_logits and the kind of labels need "
    "to be the same on every replica; got "
)


def _agreed_sizes(context: Any, teacher: Array, labels: Array | None) -> Array:
    """Return the rows of each replica; raise unless they fit each other.

    Int labels are int32 here, soft ones of a float dtype.

    The replicas of this process are compared when the step is traced, because what they gather
    after that pairs by its order alone; the workers when it runs.
    """

    def compare(strategy: Any, text: Any) -> None:
        found = dict.fromkeys(strategy.experimental_local_results(text))
        if len(found) > 1:
            raise ValueError(_WANTED + " and ".join(found))

    classes, kind = teacher.shape[1], None if labels is None else labels.dtype.name
    text = f"{classes} classes in {teacher.dtype.name} with labels {kind}"
    context.merge_call(compare, args=(text,))
    dtypes = [0 if x is None else x.dtype.as_datatype_enum for x in (teacher, labels)]
    table = context.all_gather(tf.concat([tf.shape(teacher), dtypes], 0)[None], axis=0)
    equal = tf.reduce_all(table[:, 1:] == table[:1, 1:])
    problem = [_WANTED, "(classes and the numbers of two dtypes, a row a replica)", table[:, 1:]]
    with tf.control_dependencies([tf.debugging.Assert(equal, problem, summarize=64)]):
        return tf.identity(table[:, 0])

"""One training in TensorFlow: the step under a strategy, and its state for `recipes.array_loop`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from mcld_core import TeacherBank
from mcld_core.backends.tensorflow import gather_keys

from .logs import Row, say
from .old_methods import method_loss
from .tf_input import evaluation_input, training_input
from .tf_pictures import Pictures, PictureSet
from .training import Job, learning_rate

if TYPE_CHECKING:
    from .tf_teacher import Teaching


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the mean over the rows."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


Logits = Callable[[Any], Any]


def logits_function(model: keras.Model) -> Logits:
    """Return the model in evaluation mode, compiled, with logits in float32."""
    images = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)
    return tf.function(
        lambda x: tf.cast(model(x, training=False), tf.float32), input_signature=[images]
    )


def predict(
    logits: Logits, split: Pictures, data: PictureSet, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels of a split, in order."""
    parts = [
        (logits(images).numpy(), labels.numpy())
        for images, labels in evaluation_input(split, data, batch_size)
    ]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


class TfLearner:
    """A student, or the teacher itself, on all replicas of a strategy."""

    def __init__(
        self,
        job: Job,
        model: keras.Model,
        teacher: keras.Model | None,
        teaching: Teaching,
        data: PictureSet,
        options: argparse.Namespace,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self.job, self.model, self.teacher, self.teaching = job, model, teacher, teaching
        self.data, self.options, self.strategy = data, options, strategy
        self.steps = len(data.train) // options.batch_size
        self.lost = 0
        self.contrasts = job.method.startswith("mcld")
        self.loss = method_loss(job.method, options, cross_entropy)
        self.bank: TeacherBank | None = None
        with strategy.scope():
            self.optimizer: Any = keras.optimizers.SGD(job.lr, momentum=options.momentum)
            if options.amp == "fp16":
                self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)
            self.optimizer.build(model.trainable_variables)
            if self.contrasts and options.bank_size not in (0, "all"):
                empty = TeacherBank.empty(options.bank_size, data.classes, like=tf.zeros([]))
                first = tf.VariableAggregation.ONLY_FIRST_REPLICA
                self.bank = TeacherBank(*(tf.Variable(x, aggregation=first) for x in empty))
        self.compiled_step = tf.function(self._step, autograph=False)
        self.logits = logits_function(model)

    def rate(self, done: float) -> float:
        """Return the learning rate; steps are at 30, 60 and 90 % (epochs of 100)."""
        return learning_rate(self.options.schedule, self.job.lr, done, (0.3, 0.6, 0.9))

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield (images, labels, index), split over the replicas; say how many were left out."""
        options = self.options
        with tf.device("/cpu:0"):  # where pictures are decoded
            decoded = tf.Variable(0, dtype=tf.int64, trainable=False)
        rows = training_input(
            self.data,
            options.batch_size,
            seed=self.job.seed,
            epoch=epoch,
            start=start,
            crop=options.crop,
            flip=options.flip,
            resized_crop=options.random_resized_crop,
            decoded=decoded,
        )
        yield from self.strategy.experimental_distribute_dataset(rows)
        lost = len(self.data.train) - int(decoded)
        if lost != self.lost:
            say(f"{self.job.name}: left out {lost} training pictures that do not decode")
            self.lost = lost

    def step(self, batch: Any, progress: float, rate: float) -> dict[str, Any]:
        """Train on a batch of all replicas together."""
        self.optimizer.learning_rate.assign(rate)
        sums = self.compiled_step(*batch, tf.constant(progress, tf.float32))
        return {key: value.numpy() for key, value in sums.items()}

    def _step(self, images: Any, labels: Any, index: Any, progress: Any) -> dict[str, Any]:
        per_replica = self.strategy.run(self._replica_step, (images, labels, index, progress))
        return {
            key: self.strategy.reduce("SUM", value, axis=None) for key, value in per_replica.items()
        }

    def _replica_step(self, images: Any, labels: Any, index: Any, progress: Any) -> dict[str, Any]:
        teacher = keys = None
        if self.teacher is not None:
            if self.teaching.table is None:
                teacher = tf.cast(self.teacher(images, training=False), tf.float32)
            else:
                teacher = tf.gather(self.teaching.table, index)
            if self.contrasts:
                keys = self._keys(teacher, labels, index)
        with tf.GradientTape() as tape:
            logits = tf.cast(self.model(images, training=True), tf.float32)
            loss, terms = self.loss(logits, teacher, labels, progress, keys)
            share = loss / self.strategy.num_replicas_in_sync
            if self.options.amp == "fp16":
                share = self.optimizer.scale_loss(share)
        variables = self.model.trainable_variables
        gradients = tape.gradient(share, variables)
        self.optimizer.apply(self._decayed(gradients, variables), variables)
        rows = tf.cast(tf.shape(labels)[0], tf.float32)
        right = tf.argmax(logits, 1, labels.dtype) == labels
        sums = {"loss": rows * loss} | {f"term_{key}": rows * x for key, x in terms.items()}
        return sums | {"train_accuracy": tf.reduce_sum(tf.cast(right, tf.float32)), "rows": rows}

    def _decayed(self, gradients: list[Any], variables: list[Any]) -> list[Any]:
        """Add the weight decay to the gradients, as the published recipes do."""
        factor = self.options.weight_decay / self.strategy.num_replicas_in_sync
        if self.options.amp == "fp16":
            factor = self.optimizer.scale_loss(factor)
        pairs = zip(gradients, variables, strict=True)
        return [gradient + factor * variable for gradient, variable in pairs]

    def _keys(self, teacher: Any, labels: Any, index: Any) -> Any:
        """Return the teacher's rows of all replicas and of the bank, and move the bank on."""
        own, where = None, None
        if self.strategy.num_replicas_in_sync > 1:
            own = gather_keys(teacher, labels)
            teacher, labels, where = own.logits, own.labels, own.where
            index = tf.distribute.get_replica_context().all_gather(index, axis=0)
        if self.teaching.whole_set is not None:
            keys = self.teaching.whole_set.keys(teacher, labels, where=where, index=index)
        elif self.bank is not None:
            keys = self.bank.keys(teacher, labels, where=where)
            pushed = self.bank.push(teacher, labels, where=where)
            for variable, value in zip(self.bank, pushed, strict=True):
                variable.assign(value)
        else:
            return own
        if own is None:
            return keys
        return keys._replace(own_start=own.own_start, normalizer=own.normalizer)

    def evaluate(self) -> Row:
        """Return accuracies; where classes are of very different sizes, their mean as well."""
        row: Row = {}
        for part in ("validation", "test"):
            split = getattr(self.data, part)
            if len(split):
                batch_size = self.options.eval_batch_size
                logits, labels = predict(self.logits, split, self.data, batch_size)
                right = logits.argmax(1) == labels
                row[f"{part}_accuracy"] = float(right.mean())
                if part == "test" and self.data.name == "openclipart":
                    parts = [right[labels == label].mean() for label in np.unique(labels)]
                    row["test_balanced_accuracy"] = float(np.mean(parts))
        return row

    def model_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the model alone."""
        return named("weight", self.model.weights)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return weights, the optimiser's state and the bank."""
        moments = named("moment", self.optimizer.variables)
        return self.model_arrays() | moments | named("bank", self.bank or ())

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what `arrays` gave."""
        assign("weight", self.model.weights, arrays)
        assign("moment", self.optimizer.variables, arrays)
        assign("bank", self.bank or (), arrays)


def assign(kind: str, variables: Any, arrays: dict[str, np.ndarray]) -> None:
    """Give variables the arrays that were named after them."""
    for number, variable in enumerate(variables):
        variable.assign(arrays[f"{kind}{number}"])


def named(kind: str, variables: Any) -> dict[str, np.ndarray]:
    """Return the values of variables under numbered names."""
    return {f"{kind}{number}": variable.numpy() for number, variable in enumerate(variables)}

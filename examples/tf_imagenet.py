"""Distil one ImageNet classifier with TensorFlow: tf.data, tf.distribute, ONNX.

    python examples/tf_imagenet.py --dataset digits

takes no download and about a minute; ``--dataset openclipart`` reads 35 classes of colour pictures
(``apt-get install openclipart-png``). Read it from `train` downwards, and copy it: data, student,
teacher, step, loop, checkpoint, ONNX. ImageNet, ``folder`` and
``tinyimagenet`` are read from ``--data-dir``: class folders, ``train/n01440764/*.JPEG`` and
``val/n01440764/*.JPEG``, or TFRecord shards, ``train-00000-of-01024`` and
``validation-00000-of-00128``, with the usual feature keys. The defaults are the 100-epoch recipe
(rate 0.2 at batch 512, ×0.1 at 30, 60 and 90 % of the epochs); a pair of the literature:

    python examples/tf_imagenet.py --dataset imagenet --data-dir DIR --amp bf16 \
        --teacher resnet50 --student mobilenet_v1

A teacher without ``--teacher-weights`` is trained first, by this same script. Your own models are
``--teacher module:function`` and ``--student module:function``; a teacher may also be
``keras.applications:NAME`` or a file ``.onnx``. All GPUs are used, each contrasting with the
teacher's rows of all. A picture that does not decode is skipped, counted and named. ``--resume``
goes on where a run stopped, or was killed, and ends as if it had not.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from recipes import is_first, say
from recipes.data import Dataset, Split, scores, tf_input
from recipes.files import DataError, save_arrays
from recipes.options import TABLES, build_parser, label_counts, mcld_config
from recipes.run import Processes, Row, Run

from mcld_core import TeacherBank, adjust_logits, mcld_loss
from mcld_core.tensorflow import gather_keys

POLICIES = {"off": "float32", "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line."""
    from recipes.configs import parse_options
    from recipes.data import pictures

    parser = build_parser("Distil an ImageNet classifier with TensorFlow.")
    pictures.add_options(parser)
    add = parser.add_argument_group("TensorFlow").add_argument
    add("--amp", choices=list(POLICIES), default="off", help="mixed precision")
    add("--replicas", type=int, default=0, help="0: all GPUs, or one CPU; n: so many CPU devices")
    options = parse_options(parser, argv, TABLES | pictures.DEFAULTS)
    pictures.check_options(parser, options)
    if options.batch_size % max(options.replicas, 1):
        parser.error(f"--batch-size {options.batch_size} does not divide by --replicas")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Train one student; return 0, 2 after an error said in one line, 130 after Ctrl-C."""
    from recipes.exits import exit_status
    from recipes.models.keras import list_models

    sizes = partial(list_models, (224, 224, 3), 1000)
    return exit_status(train, parse(argv), argv, models=sizes)


def train(options: argparse.Namespace, data: Dataset | None = None, strategy: Any = None) -> Run:
    """Train a student as the options say, and return it with its history.

    Raises:
        DataError: bad input. Diverged: the loss is not finite. Stopped: Ctrl-C, the state is saved.
    """
    from recipes.models.keras import build, count_parameters

    strategy = strategy or find_strategy(options.replicas)  # before TensorFlow does anything else
    replicas = strategy.num_replicas_in_sync
    if options.batch_size % replicas:
        raise DataError(f"--batch-size {options.batch_size} does not divide by {replicas} replicas")
    if data is None:
        from recipes.data.tf_pictures import load

        data = load(options)
        say(str(data))
        if replicas > 1:
            say(f"{replicas} replicas")
    keras.config.set_dtype_policy(POLICIES[options.amp])
    with strategy.scope():
        student = build(options.student, data.image_shape, data.classes, options.seed)
    size, steps = count_parameters(student), len(data.train) // options.batch_size
    run = Run(options, data, student, size, steps, processes=find_processes(strategy))
    answer = tf.function(partial(logits_of, student), input_signature=[images_of(data)])
    predict = partial(tf_input.predict, answer, data, options.eval_batch_size)
    run.test_logits = partial(predict, data.test)
    if not run.begins():
        return run
    teacher = None if options.method == "ce" else Teacher(run, strategy)
    keras.utils.set_random_seed(options.seed)  # whatever the teacher drew
    step = Step(run, teacher, strategy)
    batches = tf_input.TrainingInput(
        data, options.batch_size, seed=options.seed, crop=options.crop, flip=options.flip,
        resized_crop=options.random_resized_crop,
    )  # fmt: skip

    # Where the training is: at the start, or where the checkpoint says.
    if run.resumes:
        from recipes.checkpoints import load_arrays

        arrays, notes = load_arrays(run.checkpoint, step.arrays())
        for key, variable in step.variables().items():
            variable.assign(arrays[key])
        run.restore(notes)

    def describe() -> dict[str, Any]:
        share = None if isinstance(data.test, Split) else 7 / 8  # of the shorter side, in the test
        return run.describe(layout="NHWC", center_crop=share)

    def keep(kind: str) -> None:
        from recipes.models.keras_files import save_model

        save_model(options.out / f"{kind}.keras", student, describe())

    def save() -> None:
        if is_first():
            save_arrays(run.checkpoint, step.arrays(), run.notes())

    def evaluate() -> Row:
        row: Row = {}
        for part, split in data.held_out().items():  # these classes are of very different sizes
            uneven = part == "test" and data.name == "openclipart"
            row |= scores(part, predict(split), split.labels, options.balanced or uneven)
        return row

    with run.watch(save):
        while run.running:
            rate = run.begin_epoch((0.3, 0.6, 0.9))
            epoch_of = partial(batches.epoch, run.epoch, run.step)
            for batch in strategy.distribute_datasets_from_function(epoch_of):
                run.add(step(batch, run.done, rate))
            batches.report()
            if not run.sums:
                raise DataError(f"{run.name}: no training picture could be read")
            run.check()
            run.end_epoch(evaluate, keep)
    if run.exports:
        from recipes.export import hand_over
        from recipes.models.keras_files import in_float32

        images, _ = next(iter(tf_input.evaluation_input(data.test, data, 64)))
        single, compared = in_float32(student), teacher.single if teacher else None
        hand_over(options.out, single, compared, images.numpy(), describe(), "tf2onnx")
    return run


def find_strategy(replicas: int) -> Any:
    """Return what spreads a step over workers and devices, where there are several."""
    asked = "TF_CONFIG" in os.environ or replicas
    if asked or len(tf.config.list_physical_devices("GPU")) > 1:
        from recipes.processes.tensorflow import make_strategy

        return make_strategy(replicas)
    return tf.distribute.get_strategy()


def find_processes(strategy: Any) -> Processes:
    """Return the processes that train together: this one, or the workers of ``TF_CONFIG``."""
    if "TF_CONFIG" not in os.environ:
        return Processes()
    from recipes.processes.tensorflow import Workers

    return Workers(strategy)


def images_of(data: Dataset) -> tf.TensorSpec:
    """Return what a batch of images is, of any number of rows."""
    return tf.TensorSpec([None, *data.image_shape], tf.float32)


def logits_of(model: keras.Model, images: Any) -> Any:
    """Return a model's answer in evaluation mode, in float32."""
    return tf.cast(model(images, training=False), tf.float32)


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the mean over the rows."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


class Step:
    """One step of all replicas together: teacher, student, loss, update, bank."""

    def __init__(self, run: Run, teacher: Teacher | None, strategy: Any) -> None:
        options, data, student = run.options, run.data, run.model
        self.options, self.student, self.teacher = options, student, teacher
        self.strategy = strategy
        self.config, self.bank = mcld_config(options), None
        self.prior = label_counts(options, data.train.labels, data.classes)
        if self.config is None and teacher is not None:
            from recipes.methods import baseline_loss

            self.baseline = baseline_loss(options, cross_entropy, self.prior)
        with strategy.scope():
            if options.optimizer == "adamw":
                optimizer: Any = keras.optimizers.AdamW(weight_decay=options.weight_decay)
            else:
                optimizer = keras.optimizers.SGD(momentum=options.momentum)
            if options.amp == "fp16":
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            optimizer.build(student.trainable_variables)
            self.optimizer = optimizer
            if options.bank_size and self.config:  # teacher rows to contrast with as well
                if options.bank_size == "all":
                    bank = TeacherBank.from_logits(teacher.table, data.train.labels)
                else:
                    empty = TeacherBank.empty
                    bank = empty(options.bank_size, data.classes, like=tf.zeros([]))
                first = tf.VariableAggregation.ONLY_FIRST_REPLICA
                self.bank = TeacherBank(*(tf.Variable(x, aggregation=first) for x in bank))
        self.compiled = tf.function(self.all_replicas, autograph=False)

    def __call__(self, batch: Any, progress: float, rate: float) -> dict[str, Any]:
        """Train on a batch; return sums over its rows of what is shown."""
        self.optimizer.learning_rate.assign(rate)
        sums = self.compiled(*batch, tf.constant(progress, tf.float32))
        return {key: x.numpy() for key, x in sums.items()}

    def all_replicas(self, *arguments: Any) -> dict[str, Any]:
        """Run `replica` everywhere and add its sums up."""
        sums = self.strategy.run(self.replica, arguments)
        return {key: self.strategy.reduce("SUM", x, axis=None) for key, x in sums.items()}

    def replica(self, images: Any, labels: Any, index: Any, progress: Any) -> dict[str, Any]:
        """Do one replica's part."""
        answers = None if self.teacher is None else self.teacher(images, index)
        keys = self.keys(answers, labels) if self.config else None
        replicas = self.strategy.num_replicas_in_sync
        scale = self.optimizer.scale_loss if self.options.amp == "fp16" else lambda x: x
        with tf.GradientTape() as tape:
            logits, terms = tf.cast(self.student(images, training=True), tf.float32), {}
            adjusted = adjust_logits(logits, self.prior) if self.options.balanced else logits
            if answers is None:
                loss = cross_entropy(adjusted, labels)
            elif self.config is None:
                loss = self.baseline(logits, answers, labels, progress)
            else:
                loss, terms = mcld_loss(
                    adjusted, answers, labels, config=self.config, keys=keys,
                    class_prior=self.prior, progress=progress, return_terms=True,
                )  # fmt: skip
            share = scale(loss / replicas)  # the optimiser adds the replicas up
        variables = self.student.trainable_variables
        gradients = tape.gradient(share, variables)
        if self.options.optimizer == "sgd":  # decay is part of the gradient, as in the recipes
            decay = scale(self.options.weight_decay / replicas)
            gradients = [x + decay * y for x, y in zip(gradients, variables, strict=True)]
        self.optimizer.apply(gradients, variables)
        rows = tf.cast(tf.shape(labels)[0], tf.float32)
        right = tf.cast(tf.argmax(logits, 1, labels.dtype) == labels, tf.float32)
        means = {"loss": loss, **{f"term_{key}": x for key, x in terms.items()}}
        sums = {key: rows * x for key, x in means.items()}
        return sums | {"train_accuracy": tf.reduce_sum(right), "rows": rows}

    def keys(self, answers: Any, labels: Any) -> Any:
        """Return the teacher's rows of all replicas and of the bank, and move the bank on."""
        own, where = None, None
        if self.strategy.num_replicas_in_sync > 1:
            own = gather_keys(answers, labels)
            answers, labels, where = own.logits, own.labels, own.where
        if self.bank is None:
            return own
        keys = self.bank.keys(answers, labels, where=where)
        if self.options.bank_size != "all":
            pushed = self.bank.push(answers, labels, where=where)
            for variable, value in zip(self.bank, pushed, strict=True):
                variable.assign(value)
        if own is None:
            return keys
        return keys._replace(own_start=own.own_start, normalizer=own.normalizer)

    def variables(self) -> dict[str, Any]:
        """Return everything that a checkpoint holds: weights, moments and bank."""
        found = [*self.student.variables, *self.optimizer.variables, *(self.bank or ())]
        return {str(number): variable for number, variable in enumerate(found)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return their values."""
        return {key: variable.numpy() for key, variable in self.variables().items()}


class Teacher:
    """The frozen teachers as one function; of images that stay the same, a table of its answers."""

    def __init__(self, run: Run, strategy: Any) -> None:
        from recipes.teachers import keras as teachers
        from recipes.teachers import measure

        options, data = run.options, run.data
        train_one = partial(train, data=data, strategy=strategy)
        found = teachers.find_teachers(options, data, train_one, strategy.scope)
        (adapter, models, self.single), self.table = found, None
        self.answer = partial(teachers.answer_in_graph, adapter, models)
        answer = tf.function(self.answer, input_signature=[images_of(data)])
        predict = partial(tf_input.predict, answer, data, options.eval_batch_size)
        measure(run, predict)
        moving = options.crop or options.flip or options.random_resized_crop
        self.looks_up = not moving and (isinstance(data.train, Split) or options.teacher_cache)
        if options.teacher_cache is not None:
            self.table = tf.constant(teachers.cached_answers(
                options, data, adapter, models, lambda: predict(data.train), run.processes
            ))  # fmt: skip
        elif self.looks_up or options.bank_size == "all":
            self.table = tf.constant(predict(data.train))

    def __call__(self, images: Any, index: Any) -> Any:
        """Return (batch, classes) in float32 for normalised images, rows of the training split."""
        return tf.gather(self.table, index) if self.looks_up else self.answer(images)


if __name__ == "__main__":
    sys.exit(main())

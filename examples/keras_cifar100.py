"""Distil one student from a teacher with Keras' ``fit``, from the data to an ONNX file.

    KERAS_BACKEND=jax python examples/keras_cifar100.py --dataset digits

takes no download and about a minute; ``tensorflow`` and ``torch`` are the other backends. Read it
from `train` downwards, and copy it: data, student, teacher, `MCLDDistiller`, ``fit`` with a
callback, checkpoint, ONNX. ``--dataset cifar100 --download --amp bf16`` is the published recipe, on
45,000 images, the other 5,000 for validation.

A teacher without ``--teacher-weights`` is trained first, by this same script. Your own models are
``--teacher module:function`` and ``--student module:function``, which return a `keras.Model`; a
teacher may also be ``keras.applications:NAME`` or a file ``.onnx``. Ctrl-C saves the state;
``--resume`` goes on there, or after the last whole epoch of a run that was killed, and ends on the
same backend as if the run had not stopped.
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
from keras import ops
from recipes import data as sets
from recipes import is_first, say
from recipes.files import save_arrays
from recipes.keras import SGD, answers_of, find_processes
from recipes.options import build_parser, label_counts, mcld_config
from recipes.run import Run

from mcld_core import TeacherBank, adjust_logits
from mcld_core.keras import MCLDDistiller

POLICIES = {"off": "float32", "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}
EXPORTERS = {"torch": "onnxscript", "tensorflow": "tf2onnx", "jax": "jax2onnx"}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line."""
    from recipes.configs import parse_options

    parser = build_parser("Distil an image classifier with Keras.")
    add = parser.add_argument_group("Keras").add_argument
    add("--amp", choices=list(POLICIES), default="off", help="mixed precision")
    return parse_options(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train one student; return 0, 2 after an error said in one line, 130 after Ctrl-C."""
    from recipes.exits import exit_status
    from recipes.models.keras import list_models

    sizes = partial(list_models, (32, 32, 3), 100)
    status = exit_status(train, parse(argv), argv, models=sizes)
    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        from recipes.processes.keras import leave

        leave(status)
    return status


def train(options: argparse.Namespace, data: sets.Dataset | None = None) -> Run:
    """Train a student as the options say, and return it with its history.

    Raises:
        DataError: bad input. Diverged: the loss is not finite. Stopped: Ctrl-C, the state is saved.
    """
    from recipes.models.keras import build, count_parameters

    processes = find_processes()
    if data is None:
        from recipes.data.load import load_data

        data = load_data(options)
        say(str(data))
    steps = sets.steps_per_epoch(data.train, options.batch_size, processes.devices)
    keras.config.set_dtype_policy(POLICIES[options.amp])
    student = build(options.student, data.image_shape, data.classes, options.seed)
    size = count_parameters(student)
    run = Run(options, data, student, size, steps, processes=processes)
    run.test_logits = partial(predict, student, data.test, data, options.eval_batch_size)
    if not run.begins():
        return run
    teacher = None if options.method == "ce" else Teacher(run)

    # What `fit` trains: the distiller for MCLD, the model below for the other losses.
    inner_teacher, inner = (None, student) if teacher is None else teacher.models_with(student)
    config = mcld_config(options)
    prior = label_counts(options, data.train.labels, data.classes)
    if config is not None:
        bank = options.bank_size
        if bank == "all":
            bank = TeacherBank.from_logits(teacher.table, data.train.labels)
        learner: keras.Model = MCLDDistiller(
            inner_teacher, inner, config, total_steps=max(options.epochs, 1) * steps,
            bank_size=bank, show_terms=True, class_prior=prior, balanced=options.balanced,
        )  # fmt: skip
    else:
        learner = Baseline(inner_teacher, inner, options, options.epochs * steps, prior)
    optimizer = SGD(options.lr, options.momentum, options.weight_decay)
    if options.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(options.lr, weight_decay=options.weight_decay)
    learner.compile(optimizer, metrics=["accuracy"])
    learner.optimizer.build(learner.trainable_variables)

    keras.utils.set_random_seed(options.seed)  # whatever the teacher drew
    batches = Batches(run, teacher)
    watch = Watch(run, learner, batches)
    if run.resumes:
        watch.restore()
    with run.watch(watch.save):
        while run.running:
            batches.start = run.step  # the rest of an epoch, then all the others
            learner.fit(
                batches, callbacks=[watch], shuffle=False, verbose=0, initial_epoch=run.epoch,
                epochs=run.epoch + 1 if run.step else options.epochs,
            )  # fmt: skip
    if run.exports:
        from recipes.export import hand_over
        from recipes.models.keras_files import in_float32

        alone, compared = in_float32(student), teacher.single if teacher else None
        images, notes = pixels(data.test.images[:64], data), run.describe(layout="NHWC")
        exporter = EXPORTERS[keras.backend.backend()]
        hand_over(options.out, alone, compared, images, notes, exporter)
    return run


class Baseline(keras.Model):
    """A student under cross-entropy, KD, DKD …: what `MCLDDistiller` is for MCLD."""

    def __init__(
        self, teacher: keras.Model | None, student: keras.Model, options: Any, total_steps: int,
        prior: np.ndarray | None,
    ) -> None:  # fmt: skip
        super().__init__(name="baseline")
        self.teacher, self.student, self.total_steps = teacher, student, total_steps
        if teacher is not None:
            teacher.trainable = False
            from recipes.methods import baseline_loss

            self.loss_of = baseline_loss(options, cross_entropy, prior)
        self.prior = prior if options.balanced else None
        self.steps_done = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="steps_done"
        )
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Return the student's logits."""
        return self.student(x, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:  # fmt: skip
        """Return the loss, and count the step."""
        progress = ops.cast(self.steps_done, "float32") / self.total_steps
        labels = ops.convert_to_tensor(y)
        if training:
            self.steps_done.assign_add(1)
        if self.teacher is None:
            adjusted = y_pred if self.prior is None else adjust_logits(y_pred, self.prior)
            return cross_entropy(adjusted, labels)
        return self.loss_of(y_pred, self.teacher(x, training=False), labels, progress)


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the mean over the rows."""
    logits = ops.cast(logits, "float32")
    return ops.mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))


def pixels(images: np.ndarray, data: sets.Dataset) -> np.ndarray:
    """Return bytes as floats, each channel centred and scaled."""
    mean, std = (np.asarray(x, "float32") * 255 for x in (data.mean, data.std))
    return (images.astype("float32") - mean) / std


def predict(model: Any, split: sets.Split, data: sets.Dataset, batch_size: int) -> np.ndarray:
    """Return the logits of a model, or of a function, for a split, in float32."""
    function = answers_of(model)
    batches = sets.evaluation_batches(split, batch_size)
    parts = [function(pixels(images, data))[:rows] for images, rows in batches]
    return np.concatenate(parts).astype("float32")


class Batches(keras.utils.PyDataset):
    """The training batches of an epoch from ``start`` on, with the teacher's answers if it asks."""

    def __init__(self, run: Run, teacher: Teacher | None) -> None:
        super().__init__()
        self.run, self.teacher, self.epoch, self.start = run, teacher, 0, 0

    def __len__(self) -> int:
        return self.run.steps - self.start

    def __getitem__(self, number: int) -> tuple[Any, np.ndarray]:
        options, data = self.run.options, self.run.data
        images, labels, index = next(sets.training_batches(
            data.train, options.batch_size, seed=options.seed, epoch=self.epoch,
            crop=options.crop, flip=options.flip, start=self.start + number,
            share=self.run.processes.share,
        ))  # fmt: skip
        x: Any = pixels(images, data)
        teacher = self.teacher
        if teacher is not None and not teacher.inside:
            x = (x, teacher.answer(x) if teacher.moving else teacher.table[index])
        return x, labels.astype("int32")


class Teacher:
    """The frozen teachers: one inside of what `fit` trains, or what they answer beside the images.

    Where every epoch shows them the same images they answer once, through ``--teacher-cache``.
    """

    def __init__(self, run: Run) -> None:
        from recipes.teachers import keras as teachers
        from recipes.teachers import measure

        options, self.data = run.options, run.data
        data, train_one = run.data, partial(train, data=run.data)
        adapter, self.models, self.single = teachers.find_teachers(options, data, train_one)
        functions = [answers_of(model) for model in self.models]
        self.answer = partial(teachers.answer, adapter, functions)
        logits_of = partial(predict, self.answer, data=data, batch_size=options.eval_batch_size)
        measure(run, logits_of)
        self.moving, self.table = bool(options.crop or options.flip), None
        if options.teacher_cache is not None:
            compute = partial(logits_of, data.train)
            self.table = teachers.cached_answers(
                options, data, adapter, self.models, compute, run.processes
            )
        elif not self.moving or options.bank_size == "all":
            self.table = logits_of(data.train)
        adapted = [getattr(options, f"teacher_{x}") for x in ("mean", "std", "size", "classes")]
        self.inside = self.moving and self.single is not None and not any(adapted)

    def models_with(self, student: keras.Model) -> tuple[keras.Model, keras.Model]:
        """Return teacher and student as models of the same inputs: images, or answers as well."""
        if self.inside:
            return self.models[0], student
        both = [keras.Input(self.data.image_shape), keras.Input((self.data.classes,))]
        same = keras.layers.Identity(dtype="float32")(both[1])
        return keras.Model(both, same), keras.Model(both, student(both[0]))


class Watch(keras.callbacks.Callback):
    """Tells the run of each step and epoch of `fit`, and writes models and checkpoints."""

    def __init__(self, run: Run, learner: Any, batches: Batches) -> None:
        super().__init__()
        self.run, self.learner, self.batches = run, learner, batches
        self.sums: list[float] = []  # of the epoch's metrics, of the steps before a resumption

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the rate."""
        self.batches.epoch = epoch
        self.learner.optimizer.learning_rate = self.run.begin_epoch()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step, and stop where the user asks for it."""
        if self.sums:  # by now all metrics have variables: sums and counts
            _ = self.model  # on JAX, reading it brings the variables up to date with the step
            for variable, value in zip(self.metric_variables(), self.sums, strict=True):
                variable.assign(ops.convert_to_tensor(variable) + value)
            self.sums = []
        self.tell(logs)
        self.run.add({})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Evaluate, and write what the epoch came to."""
        self.tell(logs)
        self.run.end_epoch(self.evaluate, self.keep)

    def evaluate(self) -> dict[str, float]:
        """Return the accuracies."""
        data, options = self.run.data, self.run.options
        size = options.eval_batch_size
        logits_of = partial(predict, self.run.model, data=data, batch_size=size)
        return sets.accuracies(logits_of, data, options.balanced)

    def keep(self, kind: str) -> None:
        """Write the student alone."""
        from recipes.models.keras_files import save_model

        notes = self.run.describe(layout="NHWC")
        save_model(self.run.folder / f"{kind}.keras", self.run.model, notes)

    def tell(self, logs: Any) -> None:
        """Set the run's sums to the means over the epoch: sums over one row."""
        means = {"rows": 1.0, "loss": logs["loss"], "train_accuracy": logs["accuracy"]}
        self.run.sums = means | {key: logs[key] for key in logs if key.startswith("term_")}

    def metric_variables(self) -> list[Any]:
        """Return a sum and a count of each metric of the epoch."""
        return [variable for metric in self.learner.metrics for variable in metric.variables]

    def state(self) -> dict[str, Any]:
        """Return the variables to keep: weights, seeds, step, bank, optimiser; no teacher's."""
        others = self.learner.teacher.variables if self.learner.teacher is not None else []
        left_out = {id(x) for x in (*self.metric_variables(), *others)}
        found = [*self.learner.variables, *self.learner.optimizer.variables]
        return {f"{n}": x for n, x in enumerate(x for x in found if id(x) not in left_out)}

    def save(self) -> None:
        """Write the checkpoint."""
        _ = self.model
        sums = [float(ops.convert_to_numpy(x)) for x in self.metric_variables()]
        arrays = {key: ops.convert_to_numpy(x) for key, x in self.state().items()}
        if is_first():
            notes = self.run.notes() | {"metrics": sums if self.run.step else []}
            save_arrays(self.run.checkpoint, arrays, notes)

    def restore(self) -> None:
        """Go back to the checkpoint."""
        from recipes.checkpoints import load_arrays

        variables = self.state()
        like = {key: ops.convert_to_numpy(x) for key, x in variables.items()}
        arrays, notes = load_arrays(self.run.checkpoint, like)
        for key, variable in variables.items():
            variable.assign(arrays[key])
        self.sums = notes["metrics"]
        self.run.restore(notes)


if __name__ == "__main__":
    sys.exit(main())

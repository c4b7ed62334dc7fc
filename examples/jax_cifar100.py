"""Distil one student from a teacher with JAX and Flax, from the data to an ONNX file.

    pip install '.[jax,examples,onnx]' flax optax jax2onnx
    python examples/jax_cifar100.py --dataset digits

takes no download and less than a minute. Read it from `train` downwards, and copy it: data,
student, teacher, step (one compiled program), loop, checkpoint, ONNX. ``--dataset cifar100
--download --amp bf16`` is the published recipe, on 45,000 images, the other 5,000 for validation.

A teacher without ``--teacher-weights`` is trained first, by this same script. Your own models are
``--teacher module:function`` and ``--student module:function``, which return a `nnx.Module`. Each
batch is split over all devices; where ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and
``JAX_PROCESS_ID`` are set, over those of several processes. ``--resume`` goes on where a run
stopped, or was killed, and ends as if it had not.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from recipes import data as sets
from recipes import is_first, say
from recipes.files import save_arrays
from recipes.jax import Devices, named, save_model, unnamed
from recipes.options import build_parser, label_counts, mcld_config
from recipes.run import Run

from mcld_core import TeacherBank, adjust_logits, mcld_loss


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line."""
    from recipes.configs import parse_options

    parser = build_parser("Distil an image classifier with JAX and Flax.")
    add = parser.add_argument_group("JAX").add_argument
    add("--amp", choices=("off", "bf16"), default="off", help="what the layers compute in")
    return parse_options(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train one student; return 0, 2 after an error said in one line, 130 after Ctrl-C."""
    from recipes.exits import exit_status
    from recipes.models.jax import list_models

    options = parse(argv)
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        count, rank = (int(os.environ[f"JAX_{name}"]) for name in ("NUM_PROCESSES", "PROCESS_ID"))
        jax.distributed.initialize(num_processes=count, process_id=rank)
    return exit_status(train, options, argv, models=list_models)


class State(NamedTuple):
    """What a step takes and gives back, and a checkpoint holds."""

    params: Any
    others: Any  # what else the model holds: statistics of batch norms, keys of dropout
    moments: Any
    bank: TeacherBank | None


def train(options: argparse.Namespace, data: sets.Dataset | None = None) -> Run:
    """Train a student as the options say, and return it with its history.

    Raises:
        DataError: bad input. Diverged: the loss is not finite. Stopped: Ctrl-C, the state is saved.
    """
    from recipes.models.jax import build

    if data is None:
        from recipes.data.load import load_data

        data = load_data(options)
        say(str(data))
    dtype = jnp.bfloat16 if options.amp == "bf16" else jnp.float32
    student = build(options.student, data.image_shape, data.classes, options.seed, dtype)
    graph, *variables = nnx.split(student, nnx.Param, ...)
    params, others = map(nnx.to_pure_dict, variables)
    decay = optax.add_decayed_weights(options.weight_decay)  # of SGD: part of the gradient
    optimizer = optax.chain(decay, optax.trace(options.momentum))  # the step multiplies by −rate
    if options.optimizer == "adamw":
        optimizer = optax.chain(optax.scale_by_adam(), decay)
    devices, size = Devices(), sum(leaf.size for leaf in jax.tree.leaves(params))
    steps = sets.steps_per_epoch(data.train, options.batch_size)
    run = Run(options, data, student, size, steps, processes=devices)
    state = State(params, others, optimizer.init(params), None)
    run_student = jax.jit(lambda state, images: run_model(graph, state, normalise(data, images)))

    def logits_of(split: sets.Split) -> np.ndarray:
        return devices.answers(options.eval_batch_size, split, partial(run_student, state[:2]))

    run.test_logits = partial(logits_of, data.test)
    if not run.begins():
        return run
    teacher = None if options.method == "ce" else make_teacher(run, devices)
    if options.bank_size and mcld_config(options):  # teacher rows to contrast with as well
        labels, like = data.train.labels.astype("int32"), jnp.zeros(0)
        if options.bank_size == "all":
            bank = TeacherBank.from_logits(teacher.table, labels, like=like)
        else:
            bank = TeacherBank.empty(options.bank_size, data.classes, like=like)
        state = state._replace(bank=bank)
    step = make_step(graph, optimizer, options, data, devices)

    # Where the training is: at the start, or where the checkpoint says.
    if run.resumes:
        from recipes.checkpoints import load_arrays

        arrays, notes = load_arrays(run.checkpoint, named(state))
        state = unnamed(arrays, state)
        run.restore(notes)
    state = devices.copy(state)

    def save() -> None:
        if is_first():
            save_arrays(run.checkpoint, named(state), run.notes())

    def keep(kind: str) -> None:
        notes = run.describe(layout="NHWC")
        save_model(options.out / f"{kind}.npz", *state[:2], notes)

    with run.watch(save):
        while run.running:
            rate = run.begin_epoch()
            batches = sets.training_batches(
                data.train, options.batch_size, seed=options.seed, epoch=run.epoch,
                crop=options.crop, flip=options.flip, start=run.step, share=devices.share,
            )  # fmt: skip
            for images, labels, index in batches:
                done = run.step * options.batch_size
                count = min(options.batch_size, len(data.train) - done)
                labels, index = labels.astype("int32"), index.astype("int32")
                batch = devices.split(count, images, labels, index)
                answers = teacher.answer(batch[0], batch[2]) if teacher else None
                state, sums = step(state, *batch, answers, np.float32(run.done), np.float32(rate))
                run.add(sums)
            run.end_epoch(lambda: sets.accuracies(logits_of, data, options.balanced), keep)
    nnx.update(student, *(nnx.State(unnamed(named(x), x)) for x in state[:2]))
    student.eval()
    if run.exports:
        from recipes.export import hand_over

        shown = np.asarray(normalise(data, jnp.asarray(data.test.images[:64])))
        compared, notes = teacher.model if teacher else None, run.describe(layout="NHWC")
        hand_over(options.out, student, compared, shown, notes, "jax2onnx")
    return run


def make_step(
    graph: Any, optimizer: Any, options: Any, data: sets.Dataset, devices: Devices
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """Return ``step(state, images, labels, index, answers, progress, rate)``, compiled as a whole.

    It gives the next state (the old one is donated) and sums over the batch of what is shown.
    """
    config = mcld_config(options)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    prior = label_counts(options, data.train.labels, data.classes)
    if config is None and options.method != "ce":
        from recipes.methods import baseline_loss

        baseline = baseline_loss(options, lambda *x: cross_entropy(*x).mean(), prior)

    def loss_of(logits: Any, answers: Any, labels: Any, keys: Any, progress: Any) -> Any:
        adjusted = adjust_logits(logits, prior) if options.balanced else logits
        if answers is None:
            return cross_entropy(adjusted, labels).mean(), {}
        if config is None:
            return baseline(logits, answers, labels, progress), {}
        return mcld_loss(
            adjusted, answers, labels, config=config, keys=keys, class_prior=prior,
            progress=progress, return_terms=True,
        )  # fmt: skip

    @partial(jax.jit, donate_argnums=0, out_shardings=devices.whole)
    def step(
        state: State, images: Any, labels: Any, index: Any, answers: Any, progress: Any, rate: Any
    ) -> tuple[State, dict[str, jax.Array]]:
        pixels, keys, bank = normalise(data, images), None, state.bank
        if bank is not None:
            keys = bank.keys(answers, labels, index=index)
            moves = options.bank_size != "all"
            bank = bank.push(answers, labels, index=index) if moves else bank

        def objective(params: Any) -> Any:
            model = nnx.merge(graph, nnx.State(params), nnx.State(state.others))
            model.train()
            logits = model(pixels).astype("float32")
            others = nnx.to_pure_dict(nnx.split(model, nnx.Param, ...)[2])
            loss, terms = loss_of(logits, answers, labels, keys, progress)
            return loss, (terms, logits, others)

        found, gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
        loss, (terms, logits, others) = found
        updates, moments = optimizer.update(gradient, state.moments, state.params)
        params = optax.apply_updates(state.params, jax.tree.map(lambda x: -rate * x, updates))
        means = {"loss": loss, **{f"term_{key}": x for key, x in terms.items()}}
        means["train_accuracy"] = (logits.argmax(1) == labels).mean()
        sums = {key: len(labels) * jnp.float32(x) for key, x in means.items()}
        return State(params, others, moments, bank), sums | {"rows": jnp.float32(len(labels))}

    return step


def normalise(data: sets.Dataset, images: jax.Array) -> jax.Array:
    """Turn bytes into normalised float32 pixels."""
    mean, std = (jnp.asarray(x, "float32")[None, None, None] for x in (data.mean, data.std))
    return (images.astype("float32") / 255 - mean) / std


class Teacher(NamedTuple):
    """The frozen teachers as one: from images and their rows in the training split to logits."""

    answer: Callable[[jax.Array, jax.Array], jax.Array]
    model: nnx.Module | None  # if it is one
    table: np.ndarray | None  # its logits of the training images, where steps or the bank use them


def make_teacher(run: Run, devices: Devices) -> Teacher:
    """Train the teacher, or load what ``--teacher`` names, and say how good it is.

    Where every epoch shows it the same images it answers once, through ``--teacher-cache``.
    """
    from recipes import teachers

    options, data = run.options, run.data
    train_one = partial(train, data=data)
    if teachers.trains_teacher(options):
        model = alone = train_one(teachers.teacher_options(options)).model
    else:
        from recipes.teachers.jax import load_fitted

        model = load_fitted(options, data, train_one)
        alone = model.alone
    graph, found = nnx.split(model)
    variables = devices.copy((nnx.to_pure_dict(found),))

    @jax.jit
    def answer(variables: Any, images: jax.Array) -> jax.Array:
        return run_model(graph, variables, normalise(data, images))

    def logits_of(split: sets.Split) -> np.ndarray:
        return devices.answers(options.eval_batch_size, split, partial(answer, variables))

    teachers.measure(run, logits_of)
    moving, table = options.crop or options.flip, None
    if options.teacher_cache is not None:
        from recipes.teachers.cache import cached_logits

        compute, adapter = partial(logits_of, data.train), getattr(model, "adapter", None)
        mark = [*named(variables).values(), *getattr(model, "contents", ())]
        table = cached_logits(options, data, adapter, mark, compute, devices)
    elif not moving or options.bank_size == "all":
        table = logits_of(data.train)
    if moving:
        return Teacher(lambda images, index: answer(variables, images), alone, table)
    look_up, rows = jax.jit(lambda rows, index: rows[index]), devices.copy(table)
    return Teacher(lambda images, index: look_up(rows, index), alone, table)


def run_model(graph: Any, variables: Sequence[Any], pixels: jax.Array) -> jax.Array:
    """Return the logits of a model in evaluation mode, in float32."""
    model = nnx.merge(graph, *map(nnx.State, variables))
    model.eval()
    return model(pixels).astype("float32")


if __name__ == "__main__":
    sys.exit(main())

"""Distil one image classifier into a smaller one with JAX and Flax: from the data to an ONNX file.

    pip install '.[jax,examples,onnx]' flax optax orbax-checkpoint grain jax2onnx
    python examples/jax_cifar100.py --dataset digits

takes no download and a minute; ``--dataset cifar100 --workers 4`` is the published recipe, with
``--recipe vit`` a ViT by mixup and cutmix, ``--student module:function`` a `nnx.Module` of yours.
`grain` reads and augments the pictures, `orbax` saves while the training goes on, one compiled step
runs over a mesh of all devices (of several processes too, where JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID are set). The loss is `mcld_loss`, in `objective`. Ctrl-C saves
the state; ``--resume`` goes on, also after a crash, and ends with the same bits.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import absl.flags
import common
import grain
import jax
import jax.numpy as jnp
import jax_networks
import numpy as np
import optax
import orbax.checkpoint as ocp
from data import Data, InputError, Pictures
from flax import nnx
from jax.experimental.multihost_utils import process_allgather, sync_global_devices
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax_networks import FromPixels
from safetensors.numpy import save_file

from mcld_core import MCLDConfig, TeacherBank, mcld_loss

CONFIG = MCLDConfig(weight_ce=1.0)


def training_batches(data: Data, options: argparse.Namespace, done: int) -> Iterator[Any]:
    """Return endless batches of pictures uint8 and class numbers, after ``done`` of them.

    Each of several processes reads its share of every batch. What is random depends on the seed and
    on a picture's place in this endless row alone: a checkpoint needs no more than ``done``.
    """
    if not isinstance(data.train, Pictures):
        raise InputError("--stream: JAX's script reads pictures by number, as Parquet or folders")
    rank, ranks = jax.process_index(), jax.process_count()

    def view(row: tuple[np.ndarray, int], rng: np.random.Generator) -> tuple[np.ndarray, np.int32]:
        return common.crop_and_flip(row[0], rng), np.int32(row[1])

    pictures = grain.MapDataset.source(data.train).seed(options.seed).shuffle()[rank::ranks]
    batches = pictures.random_map(view).batch(options.batch_size // ranks, drop_remainder=True)
    absl.flags.FLAGS.mark_as_parsed()  # grain's workers ask for one of theirs (google/grain#1355)
    workers = grain.multiprocessing.MultiprocessingOptions(num_workers=options.workers)
    return iter(batches.repeat()[done:].to_iter_dataset().mp_prefetch(workers, ignore_signals))


def ignore_signals(*_: int) -> None:
    """Leave Ctrl-C to the first process, which reads on until its step is saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def evaluation_batches(split: Any, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pictures of 0 to 1, filled up with black ones to full batches, and class numbers."""
    rows = iter(split)
    while chosen := list(islice(rows, size)):
        pixels = np.stack([image for image, _ in chosen]) / np.float32(255)
        empty = np.zeros((size - len(chosen), *pixels.shape[1:]), np.float32)
        yield np.concatenate([pixels, empty]), np.array([label for _, label in chosen])


@partial(jax.jit, static_argnums=0)
def run(graph: Any, variables: Any, pixels: jax.Array) -> jax.Array:
    """Return the logits of a network in evaluation mode."""
    model = nnx.merge(graph, *variables)
    model.eval()
    return model(pixels)


def accuracy(graph: Any, variables: Any, split: Any, size: int) -> float:
    """Return the share of right answers."""
    right = [
        np.asarray(run(graph, variables, pixels))[: len(labels)].argmax(1) == labels
        for pixels, labels in evaluation_batches(split, size)
    ]
    return float(np.concatenate(right).mean())


def load_teacher(options: argparse.Namespace, data: Data) -> FromPixels:
    """Return the teacher; one of our networks that has no weights is trained first."""
    weights = options.teacher_weights
    if weights is None and jax_networks.ours(options.teacher, nnx.Rngs(0)):
        weights = options.out / "teacher" / "model.safetensors"
        if not weights.is_file():
            train(common.of_teacher(options), data)
    teacher = jax_networks.build(options.teacher, "--teacher", data, 0, weights)
    pixels, labels = next(evaluation_batches(data.test, 256))

    def logits(mean: Any, std: Any) -> np.ndarray:
        other = nnx.split(FromPixels(teacher.model, mean, std, options.teacher_size))
        return np.asarray(run(other[0], other[1:], pixels))[: len(labels)]

    own = common.check_teacher(options, logits, labels, (data.mean, data.std), data)
    return FromPixels(teacher.model, *own, options.teacher_size)


def mix(pixels: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mix each picture with the next, by mixup or by cutmix, and their soft labels alike."""
    kind, portion, *corner = jax.random.uniform(key, (4,))
    height, width = pixels.shape[1:3]
    places = jnp.meshgrid(jnp.arange(height) / height, jnp.arange(width) / width, indexing="ij")
    side = jnp.sqrt(portion)
    inside = [(x >= c * (1 - side)) & (x < c * (1 - side) + side)
              for x, c in zip(places, corner, strict=True)]  # fmt: skip
    box = jnp.where(kind < 0.5, portion, (inside[0] & inside[1]).astype("float32"))
    mixed = pixels + box[None, :, :, None] * (jnp.roll(pixels, 1, 0) - pixels)
    return mixed, labels + box.mean() * (jnp.roll(labels, 1, 0) - labels)


def make_step(graph: Any, teacher: Any, optimizer: Any, options: argparse.Namespace,
              classes: int, total: int) -> Callable[..., Any]:  # fmt: skip
    """Return ``step(state, answering, pixels, labels, rate)`` → the next state and the loss.

    It is compiled as a whole; the old state is donated. ``answering`` are the teacher's variables.
    """
    vit = options.recipe == "vit"

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, answering: Any, pixels: Any, labels: Any, rate: Any) -> Any:
        pixels, progress, bank = pixels / 255.0, state["step"] / total, state["bank"]
        if vit:
            smooth = 0.9 * jax.nn.one_hot(labels, classes) + 0.1 / classes
            key = jax.random.fold_in(jax.random.key(options.seed), state["step"])
            pixels, labels = mix(pixels, smooth, key)
        answers, keys = None if teacher is None else run(teacher, answering, pixels), None
        if bank is not None:
            keys, bank = bank.keys(answers, labels), bank.push(answers, labels)

        def objective(params: Any) -> Any:
            """Return the loss of a batch, what this script is about, and the new statistics."""
            model = nnx.merge(graph, params, state["others"], copy=True)
            model.train()
            logits = model(pixels)
            others = nnx.split(model, nnx.Param, ...)[2]
            if answers is not None:
                return mcld_loss(
                    logits, answers, labels, config=CONFIG, keys=keys, progress=progress
                ), others
            soft = labels if vit else jax.nn.one_hot(labels, classes)
            return optax.softmax_cross_entropy(logits, soft).mean(), others

        (loss, others), gradient = jax.value_and_grad(objective, has_aux=True)(state["params"])
        updates, moments = optimizer.update(gradient, state["moments"], state["params"])
        params = optax.apply_updates(state["params"], jax.tree.map(lambda x: -rate * x, updates))
        return {"params": params, "others": others, "moments": moments, "bank": bank,
                "step": state["step"] + 1}, loss  # fmt: skip

    return step


def train(options: argparse.Namespace, data: Data) -> None:
    """Train a student as the options say. Raises KeyboardInterrupt once a signal came."""
    classes, vit, size = len(data.classes), options.recipe == "vit", options.batch_size
    if size % jax.device_count():
        raise InputError(f"--batch-size {size} cannot be cut over {jax.device_count()} devices")
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axis)) for axis in (["data"], []))
    teacher, answering, accuracies = None, None, dict[str, float]()
    if options.method != "ce":
        teacher, *answering = nnx.split(load_teacher(options, data))
        answering = jax.device_put(answering, whole)
        accuracies["teacher"] = accuracy(teacher, answering, data.test, size)
        common.say(f"{options.teacher}: test accuracy {accuracies['teacher']:.2%}")

    student = jax_networks.build(options.student, "--student", data, options.seed)
    graph, params, others = nnx.split(student, nnx.Param, ...)
    decay = optax.add_decayed_weights(options.weight_decay)
    optimizer = optax.chain(decay, optax.trace(0.9))  # the step multiplies by −rate
    if vit:
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), decay)
    bank = None
    if options.bank_size and options.method != "ce":
        bank = TeacherBank.empty(options.bank_size, classes, like=jnp.zeros(0), soft_labels=vit)
    state = {"params": params, "others": others, "moments": optimizer.init(params), "bank": bank,
             "step": jnp.zeros((), "int32")}  # fmt: skip
    state = jax.device_put(state, whole)
    if not (steps := len(data.train) // size):
        raise InputError(f"--batch-size {size} is more than {len(data.train)} training pictures")
    total = steps * options.epochs
    step = make_step(graph, teacher, optimizer, options, classes, total)

    folder = (options.out / "state").absolute()
    manager = ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=1))
    done = manager.latest_step() or 0

    if done:
        state = manager.restore(done, args=ocp.args.StandardRestore(state))
    batches, losses, begun = training_batches(data, options, done), jnp.zeros(()), done
    with common.signals() as heard, common.progress(options, total, done) as bar:
        while done < total:
            factor = np.float32(options.lr * common.rate(options, done / total))
            batch = (jax.make_array_from_process_local_data(rows, x) for x in next(batches))
            state, loss = step(state, answering, *batch, factor)
            losses, done = losses + loss, done + 1
            bar.update()
            if done % steps == 0:
                row = {"loss": float(losses) / (done - begun)}
                losses, begun = jnp.zeros(()), done
                if data.validation is not None:
                    variables = state["params"], state["others"]
                    row["validation"] = accuracy(graph, variables, data.validation, size)
                bar.set_postfix(row)
            stops = bool(heard)
            if jax.process_count() > 1:  # they ask each other
                stops = done % 10 == 0 and bool(process_allgather(np.asarray(stops)).any())
            if done % steps == 0 or stops:
                manager.save(done, args=ocp.args.StandardSave(state))  # while the training goes on
            if stops:
                manager.wait_until_finished()
                raise KeyboardInterrupt(f"step {done} of {total}: {common.SAVED}")
    manager.close()
    accuracies["student"] = accuracy(graph, (state["params"], state["others"]), data.test, size)
    nnx.update(student, state["params"], state["others"])
    student.eval()
    if jax.process_index() == 0:
        with common.drafted(options.out / "model.safetensors") as path:
            save_file(jax_networks.named(student.model), path)
        example = next(evaluation_batches(data.test, 8))[0]
        common.finish(options, data, student, example, accuracies, "NHWC")
    sync_global_devices("whoever comes next reads the file")


main = partial(common.run, partial(common.parser, __doc__.splitlines()[0]), train)

if __name__ == "__main__":
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        count, rank = (int(os.environ[f"JAX_{name}"]) for name in ("NUM_PROCESSES", "PROCESS_ID"))
        os.environ["RANK"] = str(rank)  # who speaks
        jax.distributed.initialize(num_processes=count, process_id=rank)
    sys.exit(main())

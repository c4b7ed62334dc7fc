"""Distil one image classifier into a smaller one with TensorFlow: from the data to an ONNX file.

    pip install '.[tensorflow,keras,examples,onnx]' tf2onnx
    python examples/tf_imagenet.py --dataset digits

takes no download and a minute. ImageNet is read from class folders (``--dataset folder``), or from
TFRecord shards with the usual keys, train-00000-of-01024, validation-00000-of-00128:

    python examples/tf_imagenet.py --recipe vit --dataset tfrecords --data-dir DIR \
        --train-size 1281167 --classes 1000 --teacher keras.applications:ResNet50

`tf.data` reads, Keras' layers augment, one `tf.function` is a step of all GPUs, on several machines
where TF_CONFIG is set (then with one --out for all). The loss is `mcld_loss`, in `replica`. Ctrl-C
saves the state, iterator included; ``--resume`` goes on, also after a crash, with the same bits.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
import common
import data as pictures
import keras
import keras_networks
import numpy as np
import tensorflow as tf
from data import Data, InputError, Stream

from mcld_core import MCLDConfig, mcld_loss
from mcld_core.tensorflow import gather_keys

KEYS = IMAGE, LABEL = "image/encoded", "image/class/label"
CONFIG, AT_ONCE = MCLDConfig(weight_ce=1.0), {"num_parallel_calls": -1, "deterministic": True}


def parser() -> argparse.ArgumentParser:
    """Return the options: those of every image script, and TensorFlow's own."""
    made = common.parser(__doc__.splitlines()[0])
    add = made.add_argument_group("TensorFlow").add_argument
    add("--policy", choices=("float32", "mixed_bfloat16"), default="float32", help="precision")
    add("--first-label", type=int, default=1, help="the first class's number in TFRecords")
    return made


def load(options: argparse.Namespace) -> Data:
    """Return what every script reads, or TFRecords."""
    folder, count = options.data_dir, options.train_size
    if options.dataset != "tfrecords":
        return pictures.load(options)
    if not (folder and count and options.classes):
        raise InputError("--dataset tfrecords needs --data-dir, --train-size and --classes")
    found = [sorted(map(str, folder.glob(f"{x}-*-of-*"))) for x in ("train", "validation")]
    if not all(found):
        raise InputError(f"{folder} needs shards train-…-of-… and validation-…-of-…")
    splits = zip(found, (count, 0), strict=True)  # how many the test has is not known
    train, test = (Stream((paths, options.first_label), KEYS, n) for paths, n in splits)
    names, side = [str(number) for number in range(options.classes)], options.image_size or 224
    return Data(names, (side, side, 3), *common.IMAGENET, train, None, test)


def rows_of(split: Any, seed: int | None, rank: int, workers: int) -> Any:
    """Return bytes or pixels and class numbers, in order; with a seed a machine's endless share."""
    if isinstance(split, Stream):
        if split.columns != KEYS:
            raise InputError("--stream: TensorFlow's script reads folders, Parquet and TFRecords")
        files = tf.data.Dataset.from_tensor_slices(split.rows[0])
        rows = files.flat_map(tf.data.TFRecordDataset)
        if seed is not None:
            files = files.shard(workers, rank).shuffle(len(split.rows[0]), seed=seed)
            rows = files.interleave(tf.data.TFRecordDataset, cycle_length=16, **AT_ONCE)
            rows = rows.shuffle(4096, seed=seed).repeat()
        one = partial(tf.io.FixedLenFeature, [])
        kinds = {IMAGE: one(tf.string), LABEL: one(tf.int64)}
        found = rows.map(lambda row: tf.io.parse_single_example(row, kinds))
        return found.map(lambda row: (row[IMAGE], row[LABEL] - split.rows[1]))
    # of folders the names are in memory, of Parquet files the encoded pictures
    count, labels, cells = len(split), tf.constant(split.labels), split.cells[:]
    cells, read = [cells[row] for row in split.rows], tf.identity
    if isinstance(cells[0], dict):
        kind = "path" if cells[0]["bytes"] is None else "bytes"
        cells, read = [x[kind] for x in cells], tf.io.read_file if kind == "path" else read
    found = tf.constant(cells if isinstance(cells[0], (str, bytes)) else np.stack(cells))
    order = tf.data.Dataset.range(count)
    if seed is not None:

        def place(number: Any) -> Any:  # in this epoch's order
            turn = tf.stack([seed, number // count])
            return tf.random.experimental.index_shuffle(number % count, turn, count - 1)

        order = tf.data.Dataset.counter(rank, workers).map(place)
    return order.map(lambda row: (read(found[row]), labels[row]))


def decode(content: Any, shape: tuple[int, int, int]) -> Any:
    """Return a picture as ``shape``, floats of 0 to 255, scaled, cut at its long side."""
    if content.dtype != tf.string:
        return tf.cast(content, tf.float32)
    image = tf.io.decode_image(content, shape[2], expand_animations=False)
    image.set_shape([None, None, shape[2]])
    cut = {"crop_to_aspect_ratio": True, "antialias": True, "dtype": "float32"}
    return tf.clip_by_value(keras.layers.Resizing(*shape[:2], "bicubic", **cut)(image), 0, 255)


def batches_of(data: Data, split: Any, size: int, views: Any = None, seed: int | None = None,
               rank: int = 0, workers: int = 1) -> Any:  # fmt: skip
    """Return batches of pixels of 0 to 1 and soft labels, in order or as ``views`` show them."""

    def view(number: Any, batch: Any) -> Any:
        place = tf.cast(tf.stack([[seed, number * workers + rank]]), tf.int32)
        return views((*batch, place))

    whole = lambda x, label: (decode(x, data.shape), tf.one_hot(label, len(data.classes)))  # noqa: E731
    rows = rows_of(split, seed, rank, workers).map(whole, **AT_ONCE)
    batches = rows.batch(size // workers, drop_remainder=views is not None)
    if views is None:
        return batches.map(lambda images, labels: (images / 255, labels)).prefetch(2)
    return batches.enumerate().map(view, **AT_ONCE).prefetch(2)


def accuracy(model: Any, data: Data, split: Any, size: int) -> float:
    """Return the share of right answers."""
    answer = tf.function(partial(model, training=False), reduce_retracing=True)
    right = [np.argmax(answer(pixels), 1) == np.argmax(labels, 1)
             for pixels, labels in batches_of(data, split, size)]  # fmt: skip
    return float(np.concatenate(right).mean())


def find_strategy() -> Any:
    """Return what spreads a step over machines and devices, where there are several."""
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy(found) if found[1:] else tf.distribute.get_strategy()


def train(options: argparse.Namespace, data: Data, strategy: Any = None) -> None:
    """Train a student as the options say. Raises KeyboardInterrupt once a signal came."""
    strategy, size, teacher = strategy or find_strategy(), options.batch_size, None
    resolver, replicas = strategy.cluster_resolver, strategy.num_replicas_in_sync
    machines, rank, steps = 1, 0, len(data.train) // size
    if resolver:
        machines, rank = resolver.cluster_spec().num_tasks("worker"), resolver.task_id
    if size % replicas or not steps or options.bank_size:
        wants = f"must be a multiple of {replicas} replicas, and at most {len(data.train)}"
        raise InputError(f"--batch-size {size} {wants}; --bank-size is not TensorFlow's")
    keras.config.set_dtype_policy(options.policy)
    accuracies, total = dict[str, float](), steps * options.epochs
    if options.method != "ce":
        few = next(iter(batches_of(data, data.test, 256)))
        again = partial(train, strategy=strategy)
        with strategy.scope():
            teacher = keras_networks.load_teacher(options, data, again, few)
        accuracies["teacher"] = accuracy(teacher, data, data.test, size)
        common.say(f"{options.teacher}: test accuracy {accuracies['teacher']:.2%}")

    keras.utils.set_random_seed(options.seed)  # whatever came before
    with strategy.scope():
        network = keras_networks.build(options.student, "--student", data)
        student = keras_networks.from_pixels(*network, data)
        optimizer = keras_networks.optimizer(options)
        optimizer.build(student.trainable_variables)
    views = keras_networks.Views(options.recipe, mirrored=data.shape[0] > 8)
    batches = iter(batches_of(data, data.train, size, views, options.seed, rank, machines))

    def replica(pixels: Any, labels: Any, part: Any, stops: Any) -> Any:
        """Train on a device's part of a batch, by the loss that this script is about."""
        context, rows = tf.distribute.get_replica_context(), size // replicas
        with tf.device("CPU:0"):
            start = context.replica_id_in_sync_group % (replicas // machines) * rows
            pixels, labels = (x[start : start + rows] for x in (pixels, labels))
        answers = None if teacher is None else teacher(pixels, training=False)
        keys = gather_keys(answers, labels) if answers is not None and replicas > 1 else None
        with tf.GradientTape() as tape:
            logits = student(pixels, training=True)
            if answers is None:
                loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))
            else:
                loss = mcld_loss(logits, answers, labels, config=CONFIG, keys=keys, progress=part)
            loss = loss / replicas  # the optimizer adds the replicas up
        optimizer.apply(tape.gradient(loss, student.trainable_variables))
        return loss, tf.identity(stops)  # a value of this replica

    @tf.function(autograph=False)
    def step(*arguments: Any) -> Any:
        """Run all replicas; return the loss, and how many want to stop."""
        return [strategy.reduce("SUM", x, axis=None) for x in strategy.run(replica, arguments)]

    kept = [x.value for x in (*student.variables, *optimizer.variables)]
    checkpoint = tf.train.Checkpoint(variables=kept, batches=batches)
    folder, number = options.out / "state", lambda x: tf.constant(x, tf.float32)
    manager = tf.train.CheckpointManager(checkpoint, str(folder / str(rank)), 2)
    states = [tf.train.get_checkpoint_state(str(folder / str(other))) for other in range(machines)]
    saved = [{int(path.rpartition("-")[2]) for path in state.all_model_checkpoint_paths}
             if state else set() for state in states]  # fmt: skip
    if done := max(set.intersection(*saved), default=0):  # what every machine has
        checkpoint.restore(f"{manager.directory}/ckpt-{done}").assert_consumed()
    losses, begun = 0.0, done
    with common.signals() as heard, common.progress(options, total, done) as bar:
        while done < total:
            optimizer.learning_rate.assign(options.lr * common.rate(options, done / total))
            loss, stops = step(*next(batches), number(done / total), number(bool(heard)))
            losses, done = losses + loss, done + 1
            bar.update()
            if done % steps == 0:
                row, losses, begun = {"loss": float(losses) / (done - begun)}, 0.0, done
                if data.validation is not None:
                    row["validation"] = accuracy(student, data, data.validation, size)
                bar.set_postfix(row)
            if done % steps == 0 or stops:
                manager.save(done)
            if stops:
                raise KeyboardInterrupt(f"step {done} of {total}: {common.SAVED}")
    accuracies["student"] = accuracy(student, data, data.test, size)
    if rank == 0:
        plain = keras_networks.save(network[0], options, data)
        example = next(iter(batches_of(data, data.test, 8)))[0].numpy()
        common.finish(options, data, plain, example, accuracies, "NHWC")
    strategy.reduce("SUM", strategy.run(lambda: tf.ones([])), axis=None)  # wait for the file


if "TF_CONFIG" in os.environ:  # of several machines the first alone speaks and exports
    os.environ["RANK"] = str(tf.distribute.cluster_resolver.TFConfigClusterResolver().task_id)
main = partial(common.run, parser, train, load=load)

if __name__ == "__main__":
    sys.exit(main())

"""Distil one image classifier into a smaller one with Keras' `fit`: from the data to an ONNX file.

    pip install '.[keras,jax,examples,onnx]' jax2onnx
    python examples/keras_cifar100.py --dataset digits

takes no download and a minute; ``KERAS_BACKEND`` may be jax, tensorflow or torch. CIFAR-100's
published recipe is ``--dataset cifar100 --workers 4``; ``--recipe vit`` trains a ViT with Keras'
RandAugment, MixUp and CutMix; ``--student module:function`` is a `keras.Model` of yours. The loss
is `MCLDDistiller`, in `train`. `BackupAndRestore` saves weights, optimizer and bank after each
epoch; after Ctrl-C or a crash ``--resume`` goes on from the last one that is whole. Pictures are
drawn by (seed, epoch), so without dropout in the student (its seeds are not saved) and with at most
one worker (more start an epoch anew by themselves) that ends on a CPU with the same bits.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from importlib.util import find_spec
from threading import Lock
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
import common
import keras
import keras_networks
import numpy as np
from data import Data, InputError, Pictures
from keras import callbacks

from mcld_core import MCLDConfig
from mcld_core.keras import MCLDDistiller


def parser() -> argparse.ArgumentParser:
    """Return the options: those of every image script, and Keras' own."""
    made = common.parser(__doc__.splitlines()[0])
    add = made.add_argument_group("Keras").add_argument
    kinds = ("float32", "mixed_bfloat16", "mixed_float16")
    add("--policy", choices=kinds, default="float32", help="precision")
    add("--tensorboard", action="store_true", help="by keras.callbacks (it needs tensorflow)")
    return made


class Batches(keras.utils.PyDataset):
    """Pixels of 0 to 1 and soft labels, as ``views`` show them, or all pictures in their order."""

    epoch = 0

    def __init__(self, pictures: Any, options: argparse.Namespace, classes: int,
                 views: Any = None) -> None:  # fmt: skip
        super().__init__(workers=options.workers)
        self.pictures, self.views, self.classes, self.lock = pictures, views, classes, Lock()
        self.size, self.seed = options.batch_size, options.seed

    def __len__(self) -> int:
        rows = len(self.pictures)
        return rows // self.size if self.views else -(-rows // self.size)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.arange(len(self.pictures))
        if self.views:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
        chosen = order[number * self.size :][: self.size]
        images, labels = zip(*(self.pictures[row] for row in chosen), strict=True)
        pixels, one_hot = np.stack(images), np.eye(self.classes, dtype=np.float32)[[*labels]]
        if not self.views:
            return pixels / np.float32(255), one_hot
        place = np.tile(np.int32([self.seed, self.epoch * len(self) + number]), (self.size, 1))
        with self.lock:  # several workers decode, one draws
            pixels, soft = self.views.predict_on_batch((pixels, one_hot, place))
        return np.asarray(pixels), np.asarray(soft)


def accuracy(model: Any, batches: Batches) -> float:
    """Return the share of right answers."""
    found = model.predict(batches, verbose=0).argmax(1)
    return float(np.mean(found == batches.pictures.labels))


class Watch(callbacks.Callback):
    """Shows how far the whole training is, chooses an epoch's pictures, stops by signals."""

    def __init__(self, batches: Batches, bar: Any, heard: list[int]) -> None:
        super().__init__()
        self.batches, self.bar, self.heard = batches, bar, heard

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Choose the pictures."""
        self.batches.epoch, self.bar.n = epoch, epoch * len(self.batches)
        self.bar.initial = self.bar.initial or self.bar.n

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count, and stop."""
        self.bar.update()
        if self.heard:
            done = self.batches.epoch
            raise KeyboardInterrupt(f"stopped after {done} whole epochs: {common.SAVED}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Show the numbers."""
        shown = {key: value for key, value in logs.items() if key in ("loss", "val_accuracy")}
        self.bar.set_postfix(shown)


def train(options: argparse.Namespace, data: Data) -> None:
    """Train a student as the options say. Raises KeyboardInterrupt once a signal came."""
    if not isinstance(data.train, Pictures):
        raise InputError("--stream: Keras' script reads pictures by number, as Parquet or folders")
    keras.config.set_dtype_policy(options.policy)
    if options.tensorboard and not find_spec("tensorflow"):
        raise InputError("--tensorboard: Keras writes it by tensorflow, which is not installed")
    classes, accuracies = len(data.classes), dict[str, float]()
    test = Batches(data.test, options, classes)
    if options.method != "ce":
        few = Batches(data.test, argparse.Namespace(**vars(options) | {"batch_size": 256}), classes)
        teacher = keras_networks.load_teacher(options, data, train, few[0])
        accuracies["teacher"] = accuracy(teacher, test)
        common.say(f"{options.teacher}: test accuracy {accuracies['teacher']:.2%}")

    keras.utils.set_random_seed(options.seed)  # whatever came before
    network = keras_networks.build(options.student, "--student", data)
    student = keras_networks.from_pixels(*network, data)
    views = keras_networks.Views(options.recipe, mirrored=data.shape[0] > 8)
    batches = Batches(data.train, options, classes, views)
    steps = len(batches)
    if not steps:
        size, rows = options.batch_size, len(data.train)
        raise InputError(f"--batch-size {size} is more than {rows} training pictures")
    learner, loss = student, keras.losses.CategoricalCrossentropy(from_logits=True)
    if options.method != "ce":
        learner, loss = MCLDDistiller(
            teacher, student, MCLDConfig(weight_ce=1.0), total_steps=steps * options.epochs,
            bank_size=options.bank_size, soft_labels=True,
        ), None  # fmt: skip
    learner.compile(keras_networks.optimizer(options), loss, metrics=["accuracy"])

    (out := options.out).mkdir(parents=True, exist_ok=True)
    rate = lambda epoch, _: options.lr * common.rate(options, (epoch + 0.5) / options.epochs)  # noqa: E731
    watching = [
        callbacks.BackupAndRestore(out / "state", double_checkpoint=True, delete_checkpoint=False),
        callbacks.LearningRateScheduler(rate),
        callbacks.CSVLogger(out / "log.csv", append=options.resume),
    ]
    held = data.validation
    validation = None if held is None else Batches(held, options, classes)
    if options.tensorboard:
        watching.append(callbacks.TensorBoard(out / "tensorboard"))
    with common.signals() as heard, common.progress(options, steps * options.epochs, 0) as bar:
        watching.append(Watch(batches, bar, heard))
        learner.fit(batches, epochs=options.epochs, validation_data=validation, shuffle=False,
                    verbose=0, callbacks=watching)  # fmt: skip
    accuracies["student"] = accuracy(student, test)
    plain = keras_networks.save(network[0], options, data)
    common.finish(options, data, plain, test[0][0][:8], accuracies, "NHWC")


main = partial(common.run, parser, train)

if __name__ == "__main__":
    sys.exit(main())

"""What Keras' and TensorFlow's scripts share: networks, teachers, views of pictures."""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import common
import keras
import numpy as np
from data import Data, InputError
from keras import layers, ops

WEIGHTS = "model.weights.h5"


def ours(name: str) -> Any:
    """Return what makes logits from `keras.Input` and classes; None for other names.

    ``resnet20``, ``resnet56`` …: 6n + 2 layers, 16 to 64 channels (He et al. 2016); ``resnet8x4``:
    a stem of 32, then four times as many; ``resnet8w8``: 8 to 32; ``vit-192``: of this width.
    """
    if found := re.fullmatch(r"vit-([1-9]\d*)", name):
        return partial(vit, width=int(found[1]))
    found = re.fullmatch(r"resnet(\d+)(?:x([1-9])|w([1-9]\d*))?", name)
    if found and int(found[1]) in range(8, 1500, 6):
        depth, times, width = (int(x or 0) for x in found.groups())
        stem = width or (32 if times else 16)
        stages = [(16 * times or stem) * 2**i for i in range(3)]
        return partial(resnet, blocks=(depth - 2) // 6, stem=stem, stages=stages)
    return None


def from_pixels(model: Any, mean: Any, std: Any, size: int | None, data: Data) -> keras.Model:
    """Return a network with size and normalisation before it, and with logits in float32."""
    pixels = x = keras.Input(data.shape)
    if size not in (None, data.shape[0]):
        x = layers.Resizing(size, size, "bicubic", antialias=True)(x)
    mean, std = (np.broadcast_to(np.reshape(v, -1), data.shape[2]) for v in (mean, std))
    x = layers.Rescaling((1 / std).tolist(), (-mean / std).tolist(), dtype="float32")(x)
    return keras.Model(pixels, layers.Activation("linear", dtype="float32")(model(x)))


def build(name: str, option: str, data: Data, weights: Path | None = None,
          size: int | None = None) -> tuple[keras.Model, Any, Any, int | None]:  # fmt: skip
    """Return a network of ours, of `keras.applications` or yours; mean, deviation, side for it."""
    classes, shape = len(data.classes), (size, size, data.shape[2]) if size else data.shape
    found = data.mean, data.std, size
    if make := ours(name):
        images = keras.Input(shape)
        model = keras.Model(images, make(images, classes))
    elif name.startswith("keras.applications:"):
        (model, *found), weights = application(name, option, classes, weights, size), None
    else:
        model = common.call(name, option, shape, classes)
    if not isinstance(model, keras.Model):
        raise InputError(f"{option} {name} gave a {type(model).__name__}, not a keras.Model")
    try:
        from_pixels(model, *found, data)
        if weights is not None:
            model.load_weights(weights)
    except (ValueError, OSError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{option} {name}: {weights or 'the pictures'}: {reason}") from error
    return model, *found


def application(name: str, option: str, classes: int, weights: Path | None,
                size: int | None) -> tuple[Any, ...]:  # fmt: skip
    """Return a network of `keras.applications`; a teacher without other weights has ImageNet's."""
    try:
        make = getattr(keras.applications, name.partition(":")[2])
        shape = {"input_shape": (size, size, 3)} if size else {}
        own = weights is not None or option == "--student"
        more = {"weights": weights, "classes": classes} if own else {"weights": "imagenet"}
        model = make(classifier_activation=None, **shape, **more)
    except Exception as error:  # of the download, too
        raise InputError(f"{option} {name} cannot be built: {str(error)[:300]}") from error
    colours = 255 * np.eye(4, 3, -1, "float32")[:, None, None]  # black, red, green, blue
    black, *others = sys.modules[make.__module__].preprocess_input(colours)[:, 0, 0]
    slopes = np.array(others) - black  # a row for red, for green, for blue, with one that is not 0
    if option == "--teacher" and not slopes[0, 0]:  # it takes blue first; a student learns either
        images = keras.Input(model.input_shape[1:])
        model = keras.Model(images, model(ops.flip(images, -1)))
    black, slopes = (slopes != 0) @ black, slopes.sum(1)
    return model, -black / slopes, 1 / slopes, model.input_shape[1]


def load_teacher(options: argparse.Namespace, data: Data, train: Any, batch: Any) -> keras.Model:
    """Return the teacher, one of ours trained first; look at it on a batch of the test."""
    weights = options.teacher_weights
    if weights is None and ours(options.teacher):
        weights = options.out / "teacher" / WEIGHTS
        if not weights.is_file():
            train(common.of_teacher(options), data)
            keras.config.set_dtype_policy(options.policy)  # `save` left it at float32
    keras.utils.set_random_seed(options.seed)  # a resumed run has the same teacher
    model, *found, size = build(options.teacher, "--teacher", data, weights, options.teacher_size)
    made = lambda *values: from_pixels(model, *values, size, data)  # noqa: E731
    logits = lambda *values: ops.convert_to_numpy(made(*values)(batch[0], training=False))  # noqa: E731
    return made(*common.check_teacher(options, logits, np.argmax(batch[1], 1), found, data))


def save(model: keras.Model, options: argparse.Namespace, data: Data) -> keras.Model:
    """Write a student's weights; return the student in single precision."""
    with common.drafted(options.out / WEIGHTS) as path:
        model.save_weights(draft := path.with_suffix(".weights.h5"))
        draft.rename(path)
    keras.config.set_dtype_policy("float32")
    return from_pixels(*build(options.student, "--student", data, options.out / WEIGHTS), data)


def optimizer(options: argparse.Namespace) -> Any:
    """Return the recipe's; Keras' SGD decays beside the momentum, hence × 1 / (1 − 0.9)."""
    if options.recipe == "vit":
        return keras.optimizers.AdamW(options.lr, options.weight_decay, global_clipnorm=1.0)
    return keras.optimizers.SGD(options.lr, 0.9, weight_decay=10 * options.weight_decay)


class Seeds(keras.random.SeedGenerator):
    """Random numbers by ``place``, (seed, batch), not by what was drawn before."""

    place, drawn = None, 0

    def next(self, ordered: bool = True) -> Any:
        """Return what the next random numbers of this batch are made from."""
        self.drawn += 1
        numbers = ops.stack([self.place[0], 64 * self.place[1] + self.drawn])
        return ops.cast(numbers, self.state.dtype)


class Views(keras.Model):
    """Pictures of 0 to 255 and one-hot labels as the training shows them, by Keras' layers."""

    def __init__(self, recipe: str, mirrored: bool) -> None:
        super().__init__()
        vit, self.seeds = recipe == "vit", Seeds(0)
        self.moving = [layers.RandomTranslation(1 / 8, 1 / 8, "constant", "nearest")]
        self.moving += [layers.RandomFlip("horizontal")] * mirrored
        self.moving += [layers.RandAugment((0, 255), factor=0.3)] * vit
        self.mixing = [layers.MixUp(0.8), layers.CutMix()] * vit
        for layer in [*self.moving, *self.mixing]:
            layer.generator = self.seeds

    def call(self, inputs: Any) -> Any:
        """Return pixels of 0 to 1 and labels; ``place``, (rows, 2), is seed and batch."""
        images, labels, place = inputs
        channels, self.seeds.place, self.seeds.drawn = images.shape[-1], place[0], 0
        images = ops.repeat(ops.cast(images, "float32"), 3 // channels, -1)
        for layer in self.moving:
            images = layer(images, training=True)
        images = images[..., :channels] / 255
        if not self.mixing:
            return images, labels
        mixed = {"images": images, "labels": labels}
        one, two = (layer(dict(mixed), training=True) for layer in self.mixing)
        first = keras.random.uniform((), seed=self.seeds) < 0.5
        images, labels = (ops.where(first, one[key], two[key]) for key in mixed)
        return images, 0.9 * labels + 0.1 / labels.shape[-1]


def convolve(x: Any, width: int, size: int, stride: int = 1) -> Any:
    """Return a "same" convolution and its batch norm."""
    x = layers.ZeroPadding2D(size // 2)(x)
    x = layers.Conv2D(width, size, stride, use_bias=False, kernel_initializer="he_normal")(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def resnet(x: Any, classes: int, blocks: int, stem: int, stages: list[int]) -> Any:
    """Return three stages of ``blocks`` blocks, the mean over the picture, a linear layer."""
    x = ops.relu(convolve(x, stem, 3))
    for number in range(3 * blocks):
        width, stride = stages[number // blocks], 2 if number and number % blocks == 0 else 1
        branch = convolve(ops.relu(convolve(x, width, 3, stride)), width, 3)
        same = stride == 1 and x.shape[-1] == width
        x = ops.relu(branch + (x if same else convolve(x, width, 1, stride)))
    return layers.Dense(classes)(layers.GlobalAveragePooling2D()(x))


def vit(x: Any, classes: int, width: int) -> Any:
    """Return patches of an eighth of the side, six pre-norm layers, the mean over the patches."""
    size, heads = max(1, min(x.shape[1:3]) // 8), max(1, width // 64)
    x = layers.Conv2D(width, size, size)(x)
    x = x + layers.DepthwiseConv2D(3, padding="same")(x)  # tells places (Chu et al. 2021)
    x = layers.Reshape((-1, width))(x)
    for _ in range(6):
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, y)
        y = layers.Dense(4 * width, "gelu")(layers.LayerNormalization(epsilon=1e-5)(x))
        x = x + layers.Dense(width)(y)
    x = layers.LayerNormalization(epsilon=1e-5)(x)
    return layers.Dense(classes)(layers.GlobalAveragePooling1D()(x))

"""Pictures to batches by `tf.data`. Order and augmentation depend on (seed, epoch) alone.

A picture that does not decode, or cannot be read, is left out, counted and named.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from ..files import DataError
from ..options import load_data
from . import Split, scores
from .pictures import DEFAULTS, Files, Pictures, PictureSet, load_pictures, pictures_of, say_once


class TrainingInput:
    """Shuffled, augmented epochs of full batches (images, labels, index), normalised.

    Of several workers each reads its own part of every batch, or its own shards of TFRecords.

    Args:
        data: where the pictures lie.
        batch_size: rows of a batch.
        seed: with the epoch, what order and augmentation depend on.
        crop: shift whole pictures by up to so many pixels.
        flip: mirror every second one.
        resized_crop: train on random parts of the pictures.
    """

    def __init__(
        self,
        data: PictureSet,
        batch_size: int,
        *,
        seed: int,
        crop: int = 0,
        flip: bool = False,
        resized_crop: bool = False,
    ) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.crop, self.flip, self.resized_crop = crop, flip, resized_crop
        with tf.device("/cpu:0"):  # where pictures are decoded
            self._seen = tf.Variable(tf.zeros([len(data.train)], tf.bool), trainable=False)

    def epoch(self, number: int, start: int = 0, context: Any = None) -> tf.data.Dataset:
        """Return the batches of an epoch, from ``start`` on. ``index`` is the row, or a count.

        Args:
            number: of the epoch.
            start: so many batches are left out.
            context: the `tf.distribute.InputContext` of this worker; None: one replica.
        """
        context = context or tf.distribute.InputContext()
        size = context.get_per_replica_batch_size(self.batch_size)
        workers, worker = context.num_input_pipelines, context.input_pipeline_id
        replicas = self.batch_size // workers // size  # of this worker
        rows = self._shuffled(number, workers, worker).map(self._see)
        rows = rows.map(
            lambda count, row: self._augment(number, count, row), tf.data.AUTOTUNE,
            deterministic=True,
        )  # fmt: skip
        batches = rows.batch(size, drop_remainder=True)
        if workers > 1:  # as many as the others have, though a picture does not decode
            steps = len(self.data.train) // self.batch_size
            batches = batches.repeat().take(steps * replicas)
        return batches.skip(start * replicas).prefetch(2)

    def report(self) -> None:
        """Say once how many pictures of the last epoch did not decode, and name one."""
        lost = np.flatnonzero(~self._seen.numpy())
        if len(lost):
            train = self.data.train
            such = f", such as {train.paths[lost[0]]}" if isinstance(train, Files) else ""
            say_once(f"left out {len(lost)} training pictures that do not decode{such}")

    def _see(self, count: Any, row: tuple[Any, Any, Any]) -> tuple[Any, tuple[Any, Any, Any]]:
        number = tf.where(row[2] < 0, count, row[2])
        with tf.control_dependencies([self._seen.scatter_nd_update([[number]], [True])]):
            return tf.identity(count), row

    def _augment(self, epoch: int, count: Any, row: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        image, label, index = row
        chance = tf.stack([tf.cast(self.seed * 100_003 + epoch, tf.int64), count])
        image = _crop(image, chance, self.data.image_shape, self.crop, self.resized_crop)
        if self.flip:
            image = tf.image.stateless_random_flip_left_right(image, chance)
        return normalise(image, self.data), label, index

    def _shuffled(self, epoch: int, workers: int, worker: int) -> tf.data.Dataset:
        """Return (count, decoded (image, label, index)) in the order of this epoch.

        The index is -1 in TFRecords.
        """
        split, rng = self.data.train, np.random.default_rng((self.seed, epoch))
        if not isinstance(split, Files | Split):
            seed = self.seed * 100_003 + epoch
            records, count = split.shuffled(rng, seed, workers, worker)
            self._seen.assign(np.arange(len(split)) >= count)
            rows = _decoded(records.map(lambda *row: (*row, tf.constant(-1, tf.int64))))
            return rows.enumerate()
        order, place = rng.permutation(len(split)), np.arange(len(split))
        if workers > 1:  # of each batch the rows of this worker
            full = len(split) // self.batch_size
            place = place[: full * self.batch_size].reshape(full, workers, -1)[:, worker].ravel()
        order = order[place]
        self._seen.assign(~np.isin(np.arange(len(split)), order))
        slices = tf.data.Dataset.from_tensor_slices((order, place))
        rows = tf.data.Dataset.zip(_in_order(split.take(order)), slices)
        decoded = _decoded(rows.map(lambda row, at: (*row, *at)))
        return decoded.map(lambda *row: (row[3], row[:3]))


def load(options: argparse.Namespace) -> PictureSet:
    """Find the pictures; leave out those of validation and test that do not decode.

    Raises:
        DataError: as `load_pictures` and `readable` say, or too few pictures for a batch.
    """
    if options.dataset in DEFAULTS:
        data = load_pictures(
            options.dataset,
            options.data_dir,
            image_size=options.image_size,
            train_size=options.train_size,
            validation_size=options.validation_size,
            first_label=options.first_label,
        )
    else:
        data = pictures_of(load_data(options))
    if len(data.train) < options.batch_size:
        raise DataError(f"{len(data.train)} training pictures make no batch; set --batch-size")
    if options.class_prior != "none" and data.train.labels is None:
        labels = (int(label) for _, label in _in_order(data.train))  # read, not decoded
        data = replace(data, train=replace(data.train, labels=np.fromiter(labels, np.int64)))
    parts = ["validation", "test"]
    if options.teacher_cache or options.bank_size == "all":  # the teacher answers all of them
        parts.append("train")
        if options.teacher_cache and not isinstance(data.train, Files | Split):
            raise DataError("--teacher-cache: TFRecords do not say which picture is which")
    for part in parts:
        data = replace(data, **{part: readable(getattr(data, part), data, part)})
    return data


def evaluation_input(split: Pictures, data: PictureSet, batch_size: int) -> tf.data.Dataset:
    """Return the pictures in order, cut to their middle: batches (images, labels)."""

    def centre(image: Any, label: Any) -> tuple[Any, Any]:
        return normalise(_centre(image, data.image_shape), data), label

    rows = _decoded(_in_order(split)).map(centre, tf.data.AUTOTUNE, deterministic=True)
    return rows.batch(batch_size).prefetch(2)


def readable(split: Pictures, data: PictureSet, part: str) -> Pictures:
    """Return the split with only those pictures that decode, labels known; name the others.

    Raises:
        DataError: none decodes, or a label is not a class.
    """
    if isinstance(split, Split) or not len(split):
        return split
    numbered = _in_order(split).enumerate()
    rows = _decoded(numbered.map(lambda number, row: (*row, number)))
    found = [(int(number), int(label)) for _, label, number in rows]
    if not found:
        raise DataError(f"{data.name}: not one of {len(split)} pictures decodes")
    index, labels = np.asarray(found, np.int64).T
    if labels.min() < 0 or labels.max() >= data.classes:
        raise DataError(
            f"{data.name} has labels from {labels.min()} to {labels.max()}, expected 0 to "
            f"{data.classes - 1}; does --first-label fit?"
        )
    lost = sorted(set(range(len(split))) - set(index.tolist()))
    if lost:
        such = f", such as {split.paths[lost[0]]}" if isinstance(split, Files) else ""
        say_once(f"skipped {len(lost)} {part} pictures that do not decode{such}")
    return split.take(index) if isinstance(split, Files) else replace(split, labels=labels)


def normalise(image: Any, data: PictureSet) -> Any:
    """Turn values in 0 … 255 into normalised float32 pixels of the static shape."""
    image = (tf.cast(image, tf.float32) / 255 - data.mean) / data.std
    return tf.ensure_shape(image, data.image_shape)


def _in_order(split: Pictures) -> tf.data.Dataset:
    """Return (content, label): bytes of a file, or an image of an array."""
    if not isinstance(split, Files | Split):
        return split.in_order()
    if isinstance(split, Split):
        return tf.data.Dataset.from_tensor_slices((split.images, split.labels))
    if not len(split):
        return tf.data.Dataset.from_tensor_slices((np.zeros(0, str), split.labels))
    files = tf.data.Dataset.from_tensor_slices((split.paths, split.labels))
    return files.map(lambda path, label: (tf.io.read_file(path), label), tf.data.AUTOTUNE)


def _decoded(rows: tf.data.Dataset) -> tf.data.Dataset:
    """Decode bytes to float images (height, width, channels) in 0 … 255; leave out what fails."""
    if rows.element_spec[0].dtype != tf.string:
        return rows.map(lambda image, *rest: (tf.cast(image, tf.float32), *rest))
    decoded = rows.map(lambda x, *rest: (_decode(x), *rest), tf.data.AUTOTUNE, deterministic=True)
    return decoded.ignore_errors()


def _decode(content: Any) -> Any:
    """Decode to colours; PNG and BMP on a white ground where they are transparent."""

    def on_white() -> Any:
        picture = tf.cast(tf.io.decode_image(content, 4, expand_animations=False), tf.float32)
        opacity = picture[..., 3:] / 255
        return picture[..., :3] * opacity + 255 * (1 - opacity)

    def colours() -> Any:
        return tf.cast(tf.io.decode_image(content, 3, expand_animations=False), tf.float32)

    first = tf.strings.substr(content, 0, 2)
    image = tf.cond((first == b"\x89P") | (first == b"BM"), on_white, colours)
    return tf.ensure_shape(image, [None, None, 3])


def _crop(image: Any, chance: Any, shape: tuple[int, int, int], crop: int, resized: bool) -> Any:
    """Cut out a random part, or shift the middle by up to ``crop`` pixels over a black border."""
    height, width, channels = shape
    if not resized:
        padded = tf.pad(_centre(image, shape), [[crop, crop], [crop, crop], [0, 0]])
        return tf.image.stateless_random_crop(padded, shape, chance)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image), tf.zeros([1, 1, 4]), chance, area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3), use_image_if_no_bounding_boxes=True,
    )  # fmt: skip
    size = tf.concat([size[:2], [channels]], 0)
    return tf.image.resize(tf.slice(image, begin, size), [height, width])


def _centre(image: Any, shape: tuple[int, int, int]) -> Any:
    """Scale the shorter side to 8/7 of the size and cut out the middle; arrays stay."""
    if image.shape[0] is not None:
        return image
    height, width = shape[:2]
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = height * 8 / 7 / tf.reduce_min(size)
    scaled = tf.image.resize(image, tf.cast(tf.math.ceil(size * scale), tf.int32), antialias=True)
    return tf.image.resize_with_crop_or_pad(scaled, height, width)


# ---- evaluation ----


def logits_function(model: Any) -> Any:
    """Return a Keras model in evaluation mode, compiled, with logits in float32."""
    images = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)
    return tf.function(
        lambda x: tf.cast(model(x, training=False), tf.float32), input_signature=[images]
    )


def logits_of(logits: Any, data: PictureSet, batch_size: int, split: Pictures) -> np.ndarray:
    """Return the logits of a split, in order."""
    batches = evaluation_input(split, data, batch_size)
    return np.concatenate([logits(images).numpy() for images, _ in batches])


def evaluate(
    logits: Any, data: PictureSet, batch_size: int, balanced: bool = False
) -> dict[str, float]:
    """Return `recipes.data.scores` of validation and test split.

    Open Clip Art's classes are of very different sizes: the test's are always balanced as well.
    """
    row: dict[str, float] = {}
    for part, split in data.held_out().items():
        uneven = part == "test" and data.name == "openclipart"
        found = logits_of(logits, data, batch_size, split)
        row |= scores(part, found, split.labels, balanced or uneven)
    return row

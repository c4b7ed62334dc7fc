"""Pictures of files and TFRecords for `tf_input`: found, decoded, and cut to the size.

A picture that does not decode, or cannot be read, is left out, counted and named.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from ..files import DataError
from . import Dataset, Split
from .load import load_data
from .pictures import DEFAULTS, Files, Pictures, load_pictures, say_once


def load(options: argparse.Namespace) -> Dataset:
    """Find the pictures; leave out those of validation and test that do not decode.

    Raises:
        DataError: as `load_pictures` and `readable` say, or too few pictures for a batch.
    """
    if options.dataset in DEFAULTS:
        names = ("image_size", "train_size", "validation_size", "first_label")
        given = {name: getattr(options, name) for name in names}
        data: Dataset = load_pictures(options.dataset, options.data_dir, **given)
    else:
        data = load_data(options)
    if len(data.train) < options.batch_size:
        raise DataError(f"{len(data.train)} training pictures make no batch; set --batch-size")
    if options.class_prior != "none" and data.train.labels is None:
        labels = (int(label) for _, label in _encoded(data.train))  # read, not decoded
        data = replace(data, train=replace(data.train, labels=np.fromiter(labels, np.int64)))
    parts = ["validation", "test"]
    if options.teacher_cache or options.bank_size == "all":  # the teacher answers all of them
        parts.append("train")
        if options.teacher_cache and not isinstance(data.train, Files | Split):
            raise DataError("--teacher-cache: TFRecords do not say which picture is which")
    for part in parts:
        data = replace(data, **{part: readable(getattr(data, part), data, part)})
    return data


def readable(split: Pictures, data: Dataset, part: str) -> Pictures:
    """Return the split with only those pictures that decode, labels known; name the others.

    Raises:
        DataError: none decodes, or a label is not a class.
    """
    if isinstance(split, Split) or not len(split):
        return split
    numbered = _encoded(split).enumerate()
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


class TrainingPictures:
    """The training pictures in the order of an epoch; it knows which of them do not decode."""

    def __init__(self, split: Pictures) -> None:
        self.split, self.are_records = split, not isinstance(split, Files)
        with tf.device("/cpu:0"):  # where pictures are decoded
            self.seen = tf.Variable(tf.zeros([len(split)], tf.bool), trainable=False)

    def of_files(self, order: np.ndarray, place: np.ndarray) -> tf.data.Dataset:
        """Return (place, decoded (image, label, index)) of the files ``order``."""
        self.seen.assign(~np.isin(np.arange(len(self.split)), order))
        slices = tf.data.Dataset.from_tensor_slices((order, place))
        rows = tf.data.Dataset.zip(_encoded(self.split.take(order)), slices)
        decoded = _decoded(rows.map(lambda row, at: (*row, *at)))
        return decoded.map(lambda *row: (row[3], row[:3])).map(self._see)

    def of_shards(
        self, rng: np.random.Generator, seed: int, workers: int, worker: int
    ) -> tf.data.Dataset:
        """Return (count, decoded (image, label, -1)) of a worker's records."""
        records, count = self.split.shuffled(rng, seed, workers, worker)
        self.seen.assign(np.arange(len(self.split)) >= count)
        rows = _decoded(records.map(lambda *row: (*row, tf.constant(-1, tf.int64))))
        return rows.enumerate().map(self._see)

    def report(self) -> None:
        """Say once how many pictures of the last epoch did not decode, and name one."""
        lost = np.flatnonzero(~self.seen.numpy())
        if len(lost):
            such = "" if self.are_records else f", such as {self.split.paths[lost[0]]}"
            say_once(f"left out {len(lost)} training pictures that do not decode{such}")

    def _see(self, count: Any, row: tuple[Any, Any, Any]) -> tuple[Any, tuple[Any, Any, Any]]:
        number = tf.where(row[2] < 0, count, row[2])
        with tf.control_dependencies([self.seen.scatter_nd_update([[number]], [True])]):
            return tf.identity(count), row


def in_order(split: Pictures, shape: tuple[int, int, int]) -> tf.data.Dataset:
    """Return (image, label), the image cut to its middle."""
    return _decoded(_encoded(split)).map(
        lambda image, label: (centre(image, shape), label), tf.data.AUTOTUNE, deterministic=True
    )


def _encoded(split: Pictures) -> tf.data.Dataset:
    """Return (bytes of a picture, label)."""
    if not isinstance(split, Files):
        return split.in_order()
    if not len(split):
        return tf.data.Dataset.from_tensor_slices((np.zeros(0, str), split.labels))
    files = tf.data.Dataset.from_tensor_slices((split.paths, split.labels))
    return files.map(lambda path, label: (tf.io.read_file(path), label), tf.data.AUTOTUNE)


def _decoded(rows: tf.data.Dataset) -> tf.data.Dataset:
    """Decode bytes to float images (height, width, 3) in 0 … 255; leave out what fails."""
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


def random_part(image: Any, chance: Any, shape: tuple[int, int, int]) -> Any:
    """Cut out a random part of 8 to 100 % of the area, scaled to the shape."""
    height, width, channels = shape
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image), tf.zeros([1, 1, 4]), chance, area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3), use_image_if_no_bounding_boxes=True,
    )  # fmt: skip
    size = tf.concat([size[:2], [channels]], 0)
    return tf.image.resize(tf.slice(image, begin, size), [height, width])


def centre(image: Any, shape: tuple[int, int, int]) -> Any:
    """Scale the shorter side to 8/7 of the size and cut out the middle."""
    height, width = shape[:2]
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = height * 8 / 7 / tf.reduce_min(size)
    scaled = tf.image.resize(image, tf.cast(tf.math.ceil(size * scale), tf.int32), antialias=True)
    return tf.image.resize_with_crop_or_pad(scaled, height, width)

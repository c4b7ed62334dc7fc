"""A small ImageNet in its two layouts, written by the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

COLOURS = {"blue": (20, 20, 230), "green": (20, 230, 20), "red": (230, 20, 20)}


def colour(name: str, rng: np.random.Generator) -> Image.Image:
    pixels = np.clip(np.array(COLOURS[name]) + rng.integers(-20, 20, (24, 36, 3)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def class_folders(root: Path, pictures: int = 12) -> Path:
    """Write a small ImageNet: JPEGs of one colour a class."""
    rng = np.random.default_rng(0)
    for part, count in (("train", pictures), ("val", pictures // 2)):
        for name in COLOURS:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                colour(name, rng).save(root / part / name / f"{number}.JPEG")
    return root


def shards(root: Path) -> Path:
    """Write the same as TFRecords with the usual keys, labels from 1 on."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for part, count in (("train", 12), ("validation", 6)):
        for shard in range(2):
            path = str(root / f"{part}-{shard:05d}-of-00002")
            with tf.io.TFRecordWriter(path) as writer:
                for _ in range(count // 2):
                    for label, name in enumerate(COLOURS, 1):
                        writer.write(record(colour(name, rng), label))
    return root


def record(image: Image.Image, label: int) -> bytes:
    content = tf.io.encode_jpeg(np.asarray(image)).numpy()
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(example.SerializeToString())

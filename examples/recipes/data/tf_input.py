"""Images to batches by `tf.data`. Order and augmentation depend on (seed, epoch) alone.

The pictures of files and TFRecords are decoded and cut by `tf_pictures`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from . import Dataset, Split


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
        data: Dataset,
        batch_size: int,
        *,
        seed: int,
        crop: int = 0,
        flip: bool = False,
        resized_crop: bool = False,
    ) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.crop, self.flip, self.resized_crop = crop, flip, resized_crop
        self.pictures: Any = None
        if not isinstance(data.train, Split):
            from .tf_pictures import TrainingPictures

            self.pictures = TrainingPictures(data.train)

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
        rows = self._shuffled(number, workers, worker).map(
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
        if self.pictures is not None:
            self.pictures.report()

    def _shuffled(self, epoch: int, workers: int, worker: int) -> tf.data.Dataset:
        """Return (count, (image, label, index)) in the order of this epoch."""
        split, rng = self.data.train, np.random.default_rng((self.seed, epoch))
        if self.pictures is not None and self.pictures.are_records:
            return self.pictures.of_shards(rng, self._seed_of(epoch), workers, worker)
        order, place = rng.permutation(len(split)), np.arange(len(split))
        if workers > 1:  # of each batch the rows of this worker
            full = len(split) // self.batch_size
            place = place[: full * self.batch_size].reshape(full, workers, -1)[:, worker].ravel()
        order = order[place]
        if self.pictures is not None:
            return self.pictures.of_files(order, place)
        slices = (split.images[order], split.labels[order], order, place)
        return tf.data.Dataset.from_tensor_slices(slices).map(
            lambda image, label, index, count: (count, (image, label, index))
        )

    def _augment(self, epoch: int, count: Any, row: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        image, label, index = row
        chance = tf.stack([tf.cast(self._seed_of(epoch), tf.int64), count])
        image = _crop(image, chance, self.data.image_shape, self.crop, self.resized_crop)
        if self.flip:
            image = tf.image.stateless_random_flip_left_right(image, chance)
        return normalise(image, self.data), label, index

    def _seed_of(self, epoch: int) -> int:
        return self.seed * 100_003 + epoch


def _crop(image: Any, chance: Any, shape: tuple[int, int, int], crop: int, resized: bool) -> Any:
    """Shift an image by up to ``crop`` pixels over a black border, or cut out a random part."""
    if resized:
        from .tf_pictures import random_part

        return random_part(image, chance, shape)
    if image.shape[0] is None:
        from .tf_pictures import centre

        image = centre(image, shape)
    padded = tf.pad(image, [[crop, crop], [crop, crop], [0, 0]])
    return tf.image.stateless_random_crop(padded, shape, chance)


def normalise(image: Any, data: Dataset) -> Any:
    """Turn values in 0 … 255 into normalised float32 pixels of the static shape."""
    image = (tf.cast(image, tf.float32) / 255 - data.mean) / data.std
    return tf.ensure_shape(image, data.image_shape)


# ---- evaluation ----


def evaluation_input(split: Any, data: Dataset, batch_size: int) -> tf.data.Dataset:
    """Return the images in order, pictures cut to their middle: batches (images, labels)."""
    if isinstance(split, Split):
        rows = tf.data.Dataset.from_tensor_slices((split.images, split.labels))
    else:
        from .tf_pictures import in_order

        rows = in_order(split, data.image_shape)
    normal = rows.map(lambda image, label: (normalise(image, data), label), tf.data.AUTOTUNE,
                      deterministic=True)  # fmt: skip
    return normal.batch(batch_size).prefetch(2)


def predict(answer: Any, data: Dataset, batch_size: int, split: Any) -> np.ndarray:
    """Return what ``answer`` makes of the images of a split, in order: its logits."""
    batches = evaluation_input(split, data, batch_size)
    return np.concatenate([answer(images).numpy() for images, _ in batches])

"""The frozen teacher's answers to all training images, where those are an array."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mcld_core import TeacherBank

from .cached_logits import cached_logits
from .data import Split
from .tf_pictures import PictureSet
from .tf_training import logits_function, predict


class Teaching(NamedTuple):
    """What a step knows of the teacher beside its model: its logits of all training images."""

    table: Any = None
    """To be looked up in place of the model, where every epoch shows it the same images."""
    whole_set: TeacherBank | None = None
    """The same as keys, for ``--bank-size all``."""


def teach(
    model: keras.Model, data: PictureSet, options: argparse.Namespace, *, contrasts: bool
) -> Teaching:
    """Run the teacher over an array of images once, through ``--teacher-cache`` if that is given.

    Pictures in files are decoded batch by batch, and the teacher runs in every step.
    """
    train = data.train
    still = not (options.crop or options.flip or options.random_resized_crop)
    whole_set = contrasts and options.bank_size == "all"
    if not isinstance(train, Split) or not (still or whole_set):
        return Teaching()

    def compute() -> np.ndarray:
        return predict(logits_function(model), train, data, options.eval_batch_size)[0]

    table = tf.constant(
        cached_logits(
            options.teacher_cache, data.name, train, data.classes, model.get_weights(), compute
        )
    )
    bank = TeacherBank.from_logits(table, train.labels) if whole_set else None
    return Teaching(table if still else None, bank)

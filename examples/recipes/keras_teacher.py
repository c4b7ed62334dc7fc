"""The frozen teacher's answers to all training images, where they are needed more than once."""

from __future__ import annotations

import argparse

import keras

from .cached_logits import cached_logits
from .data import Dataset
from .keras_training import Teaching, predict


def teach(
    model: keras.Model, data: Dataset, options: argparse.Namespace, *, contrasts: bool
) -> Teaching:
    """Return what a training needs of its teacher.

    Without augmentation every epoch shows it the same images, so it answers once, through
    ``--teacher-cache`` if that is given; with augmentation it runs in every step. Where the
    student ``contrasts``, ``--bank-size all`` gives it the answers to the whole training set as
    keys.
    """
    still = not options.crop and not options.flip
    whole_set = contrasts and options.bank_size == "all"
    if not still and not whole_set:
        return Teaching(model)
    table = cached_logits(
        options.teacher_cache,
        data.name,
        data.train,
        data.classes,
        model.get_weights(),
        lambda: predict(model, data.train, data, options.eval_batch_size),
    )
    return Teaching(model, table, still=still, whole_set=whole_set)

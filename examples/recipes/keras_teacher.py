"""The frozen teacher's answers to all training images, where those stay the same."""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np

from mcld_core import TeacherCache
from mcld_core.cache import fingerprint

from .data import Dataset
from .keras_training import Logits, predict
from .readers import DataError


def answers(model: keras.Model, data: Dataset, options: argparse.Namespace) -> Logits | None:
    """Return the teacher's logits of the training split, through ``--teacher-cache`` if given.

    None where images are augmented: the teacher then runs in every step.
    """
    if options.crop or options.flip:
        return None
    if options.teacher_cache is None:
        return predict(model, data.train, data, options.eval_batch_size)
    mark = fingerprint(data.name, data.train.images, data.train.labels, *model.get_weights())
    path = Path(options.teacher_cache) / f"{data.name}-{mark[:16]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = np.arange(len(data.train))
        logits = predict(model, data.train, data, options.eval_batch_size)
        TeacherCache.write(path, [(rows, logits)], len(rows), data.classes, fingerprint=mark)
    try:
        cache = TeacherCache.open(path, fingerprint=mark)
    except ValueError as error:
        raise DataError(str(error)) from error
    return np.asarray(cache[:], "float32")

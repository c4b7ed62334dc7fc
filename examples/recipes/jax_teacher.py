"""The frozen teacher's side of a training in JAX: what each step needs to know of it."""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mcld_core import TeacherBank, TeacherCache
from mcld_core.cache import fingerprint

from .data import Dataset
from .jax_network import Devices, Network, Predictor, Variables
from .jax_step import Teaching
from .readers import DataError


def teach(
    network: Network,
    variables: Variables,
    data: Dataset,
    options: argparse.Namespace,
    devices: Devices,
    predict: Predictor,
    *,
    contrasts: bool,
) -> Teaching:
    """Return what the steps need of the teacher.

    Without augmentation every epoch shows it the same images, so it answers once, from
    ``--teacher-cache`` if that has the answers; with augmentation it runs in every step. Where
    the student ``contrasts``, ``--bank-size all`` gives it the whole training set as keys.
    """
    still = not options.crop and not options.flip
    whole_set = contrasts and options.bank_size == "all"
    if not still and not whole_set:
        return Teaching(variables)
    table = devices.copy(jnp.asarray(_answers(network, variables, data, options, predict)))
    bank = TeacherBank.from_logits(table, data.train.labels) if whole_set else None
    bank = devices.copy(bank)
    return Teaching(table=table, whole_set=bank) if still else Teaching(variables, None, bank)


def _answers(
    network: Network,
    variables: Variables,
    data: Dataset,
    options: argparse.Namespace,
    predict: Predictor,
) -> np.ndarray:
    """Return the logits of all training images, through the cache where there is one."""
    if options.teacher_cache is None:
        return predict(network, variables, data.train)
    weights = [np.asarray(leaf) for leaf in jax.tree.leaves(variables)]
    mark = fingerprint(data.name, data.train.images, data.train.labels, *weights)
    path = Path(options.teacher_cache) / f"{data.name}-{mark[:16]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = np.arange(len(data.train))
        answers = predict(network, variables, data.train)
        TeacherCache.write(path, [(rows, answers)], len(rows), data.classes, fingerprint=mark)
    try:
        return TeacherCache.open(path, fingerprint=mark)[:]
    except ValueError as error:
        raise DataError(str(error)) from error

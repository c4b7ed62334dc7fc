"""The frozen teacher's side of a training in JAX: what each step needs to know of it."""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from mcld_core import TeacherBank

from .cached_logits import cached_logits
from .data import Dataset
from .jax_network import Devices, Network, Predictor, Variables
from .jax_step import Teaching


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
    answers = cached_logits(
        options.teacher_cache,
        data.name,
        data.train,
        data.classes,
        [np.asarray(leaf) for leaf in jax.tree.leaves(variables)],
        lambda: predict(network, variables, data.train),
    )
    table = devices.copy(jnp.asarray(answers))
    bank = TeacherBank.from_logits(table, data.train.labels) if whole_set else None
    bank = devices.copy(bank)
    return Teaching(table=table, whole_set=bank) if still else Teaching(variables, None, bank)

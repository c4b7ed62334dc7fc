"""The similarity S of student and teacher rows: one inner product of embedded rows.

``S_ij = <embed(s_i), k_j> / τ`` with the key vectors ``k_j`` of the teacher:

=============  =====================  ==========================  =========
similarity     embed(s)               key vector                  default τ
=============  =====================  ==========================  =========
probability    s                      softmax(t / T_key)          1
pearson        centred, unit length   centred, unit length        0.1
cosine         unit length            unit length                 0.1
dot            s                      t                           C
=============  =====================  ==========================  =========

Under ``"probability"`` the row's logsumexp cancels between numerator and denominator of every
InfoNCE, so S may be read as the critic ``-CE(p_j, softmax s_i)``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from mcld_core.backends import Backend
from mcld_core.typing import Array, Logits


class Similarity(NamedTuple):
    """What a similarity makes of rows before their inner product, and its default τ."""

    embed: Callable[[Backend, Logits], Logits] | None = None
    """Of the student's rows, and of the teacher's as keys; None: they enter as they are."""
    temperature: float | None = None
    """Default τ; None: the number of classes."""
    of_distributions: bool = False
    """Whether a key is ``softmax(t / T_key)``: then a mean of keys is a mean of probabilities, and
    a teacher's -inf is a class of probability 0."""


def normalized(ops: Backend, x: Array, centre: bool = False) -> Array:
    """Return rows of unit length, centred first or not.

    A row whose norm is at most ``32 eps`` of the uncentred norm is constant up to rounding: it
    becomes exactly 0 with a gradient of exactly 0 (hence both ``where``). Rows are first divided
    by their largest entry, which the result does not depend on, so that no square over- or
    underflows.
    """
    peak = ops.stop_gradient(ops.max(ops.abs(x), 1, keepdims=True))
    scaled = x / ops.where(peak > 0, peak, 1.0)
    centred = scaled - ops.sum(scaled, 1, keepdims=True) / float(x.shape[1]) if centre else scaled
    squared = ops.sum(centred * centred, 1, keepdims=True)
    whole = ops.sum(scaled * scaled, 1, keepdims=True)
    floor = (32.0 * float(np.finfo(ops.dtype(x)).eps)) ** 2
    constant = squared <= floor * whole
    return ops.where(constant, 0.0, centred / ops.sqrt(ops.where(constant, 1.0, squared)))


SIMILARITIES = {
    "probability": Similarity(temperature=1.0, of_distributions=True),
    "pearson": Similarity(embed=partial(normalized, centre=True), temperature=0.1),
    "cosine": Similarity(embed=normalized, temperature=0.1),
    "dot": Similarity(),
}

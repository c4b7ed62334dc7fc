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

from typing import NamedTuple

import numpy as np

from mcld_core.backends import Backend
from mcld_core.typing import Array, Float, Scalar

SIMILARITIES = ("probability", "pearson", "cosine", "dot")


class Embedding(NamedTuple):
    """Student rows as they enter S, with what the way back to the logits needs."""

    rows: Float[Array, "batch classes"]
    scale: Float[Array, "batch 1"] | None
    """The derivative of a normalised row is ``scale`` times a projection; None where rows = s."""


def default_temperature(similarity: str, classes: int) -> float:
    """Return the default τ of a similarity."""
    return {"probability": 1.0, "pearson": 0.1, "cosine": 0.1, "dot": float(classes)}[similarity]


def embed(ops: Backend, logits: Float[Array, "batch classes"], similarity: str) -> Embedding:
    """Return the student's rows as they enter S."""
    if similarity in ("pearson", "cosine"):
        return Embedding(*_normalize(ops, logits, centre=similarity == "pearson"))
    return Embedding(logits, None)


def key_vectors(
    ops: Backend,
    logits: Float[Array, "keys classes"],
    similarity: str,
    key_temperature: Scalar,
) -> Float[Array, "keys classes"]:
    """Return the teacher's rows as they enter S."""
    if similarity == "probability":
        is_one = isinstance(key_temperature, (int, float)) and key_temperature == 1
        return ops.softmax(logits if is_one else logits / key_temperature, 1)
    return embed(ops, logits, similarity).rows


def pull_back(
    ops: Backend, gradient: Float[Array, "batch classes"], embedding: Embedding
) -> Float[Array, "batch classes"]:
    """Carry a gradient with respect to `embed`'s rows back to the logits.

    Under ``"pearson"`` the gradient is a sum of centred key vectors, so it is centred already.
    """
    if embedding.scale is None:
        return gradient
    rows = embedding.rows
    along = ops.sum(gradient * rows, 1, keepdims=True)
    return embedding.scale * (gradient - rows * along)


def _normalize(ops: Backend, x: Array, centre: bool) -> tuple[Array, Array]:
    """Return rows of unit length (centred first or not) and the factor of the derivative.

    A row whose norm is at most ``32 eps`` of the uncentred norm is constant up to rounding: it
    becomes exactly 0 with a factor of exactly 0. Rows are first divided by their largest entry,
    which the result does not depend on, so that no square over- or underflows.
    """
    peak = ops.stop_gradient(ops.max(ops.abs(x), 1, keepdims=True))
    peak = ops.where(peak > 0, peak, 1.0)
    scaled = x / peak
    centred = scaled - _mean(ops, scaled) if centre else scaled
    squared = ops.sum(centred * centred, 1, keepdims=True)
    whole = ops.sum(scaled * scaled, 1, keepdims=True)
    floor = (32.0 * float(np.finfo(ops.dtype(x)).eps)) ** 2
    constant = squared <= floor * whole
    norm = ops.sqrt(ops.where(constant, 1.0, squared))
    rows = ops.where(constant, 0.0, centred / norm)
    return rows, ops.where(constant, 0.0, 1.0 / (norm * peak))


def _mean(ops: Backend, x: Array) -> Array:
    return ops.sum(x, 1, keepdims=True) / float(x.shape[1])

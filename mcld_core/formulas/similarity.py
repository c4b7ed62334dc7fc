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

import numpy as np

from mcld_core.backends import Backend
from mcld_core.formulas.divergence import divide, softened
from mcld_core.typing import Array, Float, Logits, Scalar

SIMILARITIES = ("probability", "pearson", "cosine", "dot")


def default_temperature(similarity: str, classes: int) -> float:
    """Return the default τ of a similarity."""
    return {"probability": 1.0, "pearson": 0.1, "cosine": 0.1, "dot": float(classes)}[similarity]


def embed(ops: Backend, logits: Logits, similarity: str) -> Logits:
    """Return the student's rows as they enter S."""
    if similarity in ("pearson", "cosine"):
        return _normalize(ops, logits, centre=similarity == "pearson")
    return logits


def key_vectors(
    ops: Backend, logits: Float[Array, "keys classes"], similarity: str, key_temperature: Scalar
) -> Float[Array, "keys classes"]:
    """Return the teacher's rows as they enter S."""
    if similarity == "probability":
        if isinstance(key_temperature, (int, float)):  # without a pass for logits of -inf
            return ops.softmax(divide(logits, key_temperature), 1)
        return ops.softmax(softened(ops, logits, key_temperature), 1)
    return embed(ops, logits, similarity)


def _normalize(ops: Backend, x: Array, centre: bool) -> Array:
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

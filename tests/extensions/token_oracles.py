"""Distillation of tokens by its definition: loops over tokens and classes, float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.extensions.oracles import valid_places
from tests.oracles.rows import log_softmax

Stored = tuple[Sequence[float], Sequence[int], float | None]
"""Log-probabilities, ids, and the log-probability of all others (None: none is known)."""


def divergence(log_p: list[float], log_q: list[float], name: str, mix: float) -> float:
    """Σ over classes, with 0 · log 0 = 0."""
    total = []
    for a, b in zip(log_p, log_q, strict=True):
        p, q = math.exp(a), math.exp(b)
        m = mix * p + (1 - mix) * q
        if name == "tv":
            total.append(abs(p - q) / 2)
        if name == "forward" and p > 0:
            total.append(p * (a - b))
        if name == "reverse" and q > 0:
            total.append(q * (b - a))
        if name == "jsd":
            total.append(mix * p * (a - math.log(m)) if p > 0 else 0.0)
            total.append((1 - mix) * q * (b - math.log(m)) if q > 0 else 0.0)
    return math.fsum(total)


def columns(
    student: list[float], teacher: list[float] | Stored, temperature: float
) -> tuple[list[float], list[float]]:
    """Log p and log q at T of the classes that are compared."""
    if not isinstance(teacher, tuple):
        return tuple(log_softmax([z / temperature for z in side]) for side in (teacher, student))
    values, ids, tail = teacher
    stored = [(v, i) for v, i in zip(values, ids, strict=True) if v > -math.inf]
    log_p = [v for v, _ in stored]
    if tail == -math.inf:  # nothing beside: all of the student's classes at T
        log_p = [{i: v for v, i in stored}.get(c, -math.inf) for c in range(len(student))]
        log_q = list(student)
    else:
        log_q = log_softmax(student)
        others = [log_q[c] for c in range(len(student)) if c not in [i for _, i in stored]]
        log_q = [log_q[i] for _, i in stored]
        if tail is not None:
            log_p.append(tail)
            mass = math.fsum(math.exp(x) for x in others)
            log_q.append(math.log(mass) if mass > 0 else -math.inf)
    return tuple(log_softmax([z / temperature for z in side]) for side in (log_p, log_q))


def kd_row(
    student: list[float],
    teacher: list[float] | Stored,
    label: int | None = None,
    *,
    divergence_name: str = "forward",
    mix: float = 0.5,
    temperature: float = 1.0,
    ce_weight: float = 0.0,
) -> float:
    """One token's loss."""
    log_p, log_q = columns(student, teacher, temperature)
    value = divergence(log_p, log_q, divergence_name, mix)
    value *= 1.0 if divergence_name == "tv" else temperature**2
    return value - (ce_weight * log_softmax(student)[label] if ce_weight else 0.0)


def token_kd(
    student: np.ndarray,
    teacher: Any,
    labels: np.ndarray | None,
    mask: np.ndarray,
    *,
    shift: bool = False,
    weights: np.ndarray | None = None,
    divergence: str = "forward",
    **options: Any,
) -> float:
    """The mean over the tokens that count; ``teacher`` is logits or (values, ids, tail)."""
    total, count = [], []
    for b, i in valid_places(mask, labels, shift):
        label = None if labels is None else int(labels[b][i + shift])
        if isinstance(teacher, tuple):
            values, ids, tail = teacher
            tail = tail if tail is None or np.ndim(tail) == 0 else float(tail[b, i])
            given: Any = (values[b, i].tolist(), ids[b, i].tolist(), tail)
        else:
            given = teacher[b, i].tolist()
        weight = 1.0 if weights is None else float(weights[b, i])
        row = kd_row(student[b, i].tolist(), given, label, divergence_name=divergence, **options)
        total.append(weight * row)
        count.append(weight)
    return math.fsum(total) / math.fsum(count)


def sampled_row(student: list[float], token: int, teacher: float, old: float | None) -> float:
    """The loss of one drawn token."""
    log_q = log_softmax(student)[token]
    advantage = log_q - teacher
    return advantage * (1.0 if old is None else math.exp(log_q - old)) * log_q

"""Oracles of sequences and windows: the definitions in loops over sequences and tokens, float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles import DEFAULTS
from tests.oracles.rows import (
    affinity,
    class_weights,
    key_vector,
    log_softmax,
    log_sum_exp,
    similarity,
)
from tests.oracles.terms import decoupled_row, plain_row, target_class

Place = tuple[int, int]
"""A sequence and a token in it."""


def valid_places(mask: Any, labels: Any, shift: bool, ignore_index: int = -100) -> list[Place]:
    """The tokens that count; with the shift, those that have a token after them to predict."""
    places = []
    for b in range(len(mask)):
        for i in range(len(mask[b])):
            if not mask[b][i]:
                continue
            if shift and (i + 1 == len(mask[b]) or not mask[b][i + 1]):
                continue
            label = None if labels is None else labels[b][i + shift]
            if np.ndim(label) == 0 and label == ignore_index:
                continue
            places.append((b, i))
    return places


def token_terms(
    student: np.ndarray,
    teacher: np.ndarray,
    labels: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    *,
    shift: bool = False,
    sequence_labels: Any = None,
    by_sequence: bool = False,
    token_contrast: float | None = 0.0,
    apart: Callable[[int, int], bool] = lambda b, c: False,
    progress: float = 1.0,
    class_prior: Any = None,
    **settings: Any,
) -> dict[str, float]:
    """All terms, and their weighted sum as "total".

    With a `class_prior` the contrasts see the student's logits less its logarithm.

    `apart(b, c)` names pairs of sequences that are never each other's negatives;
    `by_sequence` contrasts the categories of whole sequences.
    """
    chosen = DEFAULTS | settings
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    if mask is None:
        mask = np.ones(student.shape[:2], bool)
    places = valid_places(mask, labels, shift, chosen["ignore_index"])
    label_of: dict[Place, Any] = {}
    for b, i in places:
        label = teacher[b, i].argmax() if labels is None else labels[b][i + shift]
        label_of[b, i] = int(label) if np.ndim(label) == 0 else [float(y) for y in label]

    adjusted = student if class_prior is None else student - np.asarray(log_prior(class_prior))
    within, sample, category, ce = [], [], [], []
    for place in places:
        s, t, label = student[place].tolist(), teacher[place].tolist(), label_of[place]
        near = [p for p in places if p[0] == place[0]]
        anchor = adjusted[place].tolist()
        within.append(_info_nce(anchor, place, near, teacher, label_of, chosen, lambda p: False))
        sample.append(_sample(s, t, label, chosen))
        category.append(_one_to_many(anchor, label, places, teacher, label_of, chosen))
        weights = class_weights(label, len(s))
        ce.append(-math.fsum(w * v for w, v in zip(weights, log_softmax(s), strict=True) if w > 0))

    sequences = sorted({b for b, _ in places})
    keys = {b: _mean_key([teacher[p] for p in places if p[0] == b], chosen) for b in sequences}
    anchors = {
        b: np.mean([adjusted[p] for p in places if p[0] == b], 0).tolist() for b in sequences
    }
    instance, sequence_category = [], []
    for b in sequences:
        same = {c: _same(sequence_labels, b, c, student.shape[2]) for c in sequences}
        positive = similarity(anchors[b], keys[b], chosen)
        exponents, all_exponents, positives = [positive], [], []
        for c in sequences:
            s_bc = similarity(anchors[b], keys[c], chosen)
            masked = same[c] if chosen["target_mask"] else 0.0
            if c != b and not apart(b, c) and 1.0 - masked > 1e-6:
                exponents.append(s_bc + math.log(1.0 - masked))
            if c == b or same[c] > 0 or not apart(b, c):
                all_exponents.append(s_bc)
                positives.append((same[c] if sequence_labels is not None else 0.0, s_bc))
        instance.append(log_sum_exp(exponents) - positive)
        total = math.fsum(w for w, _ in positives)
        pulled = math.fsum(w * s_bc for w, s_bc in positives) / total if total else 0.0
        sequence_category.append(log_sum_exp(all_exponents) - pulled if total else 0.0)

    ramp = 1.0
    if chosen["category_warmup"] > 0:
        ramp = min(max(progress / chosen["category_warmup"], 0.0), 1.0)
    gamma = 1 / chosen["sample_temperature"] ** 2 if token_contrast is None else token_contrast
    terms = {
        "instance": _mean(instance),
        "token": _mean(within),
        "sample": _mean(sample),
        "category": _mean(sequence_category if by_sequence else category),
        "ce": _mean(ce),
        "ramp": ramp,
    }
    terms["total"] = (
        chosen["weight_instance"] * terms["instance"]
        + chosen["weight_sample"] * (terms["sample"] + gamma * terms["token"])
        + ramp * chosen["weight_category"] * terms["category"]
        + chosen["weight_ce"] * terms["ce"]
    )
    return terms


def log_prior(counts: Any) -> list[float]:
    """The logarithm of the frequencies; a class without any counts half the smallest."""
    least = min(float(n) for n in counts if n > 0)
    counts = [float(n) if n > 0 else least / 2 for n in counts]
    return [math.log(n / math.fsum(counts)) for n in counts]


def overlap(starts: Any, lengths: Any, series: Any) -> Callable[[int, int], bool]:
    """Whether two windows of one series have a step in common, step by step."""

    def shares_a_step(b: int, c: int) -> bool:
        first = set(range(int(starts[b]), int(starts[b]) + int(lengths[b])))
        second = set(range(int(starts[c]), int(starts[c]) + int(lengths[c])))
        return series[b] == series[c] and bool(first & second)

    return shares_a_step


def logistic_log_mass(value: float, scale: float, edges: list[float]) -> list[float]:
    """Log mass of a logistic distribution around `value` between the edges, open at both ends."""

    def below(x: float) -> float:
        z = (x - value) / scale
        return 1.0 / (1.0 + math.exp(-z)) if z > -700 else 0.0

    bounds = [0.0, *(below(edge) for edge in edges), 1.0]
    return [math.log(b - a) for a, b in itertools.pairwise(bounds)]


def _info_nce(
    s: list[float],
    place: Place,
    keys: list[Place],
    teacher: np.ndarray,
    label_of: dict[Place, Any],
    chosen: dict[str, Any],
    apart: Callable[[Place], bool],
) -> float:
    positive = similarity(s, key_vector(teacher[place].tolist(), chosen), chosen)
    exponents = [positive]
    for key in keys:
        if key == place or apart(key):
            continue
        masked = 0.0
        if chosen["target_mask"]:
            masked = affinity(label_of[place], label_of[key], len(s))
        if 1.0 - masked > 1e-6:
            s_ij = similarity(s, key_vector(teacher[key].tolist(), chosen), chosen)
            exponents.append(s_ij + math.log(1.0 - masked))
    return log_sum_exp(exponents) - positive


def _one_to_many(
    s: list[float],
    label: Any,
    keys: list[Place],
    teacher: np.ndarray,
    label_of: dict[Place, Any],
    chosen: dict[str, Any],
) -> float:
    exponents = [similarity(s, key_vector(teacher[p].tolist(), chosen), chosen) for p in keys]
    weights = [affinity(label, label_of[p], len(s)) for p in keys]
    pulled = math.fsum(w * x for w, x in zip(weights, exponents, strict=True))
    return log_sum_exp(exponents) - pulled / math.fsum(weights)


def _sample(s: list[float], t: list[float], label: Any, chosen: dict[str, Any]) -> float:
    temperature = chosen["sample_temperature"]
    if not chosen["sample_target_mask"]:
        return plain_row(s, t, temperature)
    return decoupled_row(s, t, target_class(label), 1.0, chosen["beta"], temperature)


def _mean_key(rows: list[np.ndarray], chosen: dict[str, Any]) -> list[float]:
    """The mean of what stands for each token: probabilities, or logits."""
    return np.mean([key_vector(row.tolist(), chosen) for row in rows], 0).tolist()


def _same(labels: Any, b: int, c: int, classes: int) -> float:
    if labels is None:
        return 0.0
    if np.ndim(labels) == 1:
        return 1.0 if labels[b] == labels[c] else 0.0
    return affinity(list(labels[b]), list(labels[c]), classes)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0

"""Oracles of unreliable teachers: the definitions in loops over rows and classes, float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.oracles import Case, category_wise, cross_entropy, instance_wise, sample_wise
from tests.oracles.rows import class_weights, softmax
from tests.oracles.terms import target_class

Rows = Sequence[Sequence[float]]


def counts_of(teacher: Any, labels: Any, where: Any) -> dict[str, Any]:
    """The sums that `TeacherQuality` holds, one row after the other."""
    classes = len(teacher[0])
    rows, correct = np.zeros(classes), np.zeros(classes)
    for i in range(len(teacher)):
        label = _label(labels, i)
        if not where[i] or label == -100:
            continue
        target = target_class(label)
        p = softmax(teacher[i])
        is_correct = float(max(range(classes), key=lambda c, p=p: p[c]) == target)
        rows[target] += 1
        correct[target] += is_correct
    return {"rows": rows, "correct": correct}


def competence(accuracy: float, classes: int) -> float:
    """How far above chance, 0 … 1."""
    return min(1.0, max(0.0, (accuracy - 1 / classes) / (1 - 1 / classes)))


def class_competence(counts: dict[str, Any]) -> list[float]:
    """The competence of each class, smoothed by one row at the overall accuracy."""
    accuracy = counts["correct"].sum() / counts["rows"].sum()
    return [
        competence((right + accuracy) / (n + 1), len(counts["rows"]))
        for n, right in zip(counts["rows"], counts["correct"], strict=True)
    ]


def ensemble(
    teachers: Sequence[Any],
    weights: Sequence[Any],
    where: Sequence[Any],
    temperatures: Sequence[float],
    space: str,
) -> np.ndarray:
    """The mean of probabilities (its logarithm) or logits over the teachers of each row."""
    batch, classes = np.shape(teachers[0])
    out = np.zeros((batch, classes))
    for i in range(batch):
        parts, total = [], 0.0
        for m, teacher in enumerate(teachers):
            weight = float(np.broadcast_to(weights[m], batch)[i])
            if where[m] is not None and not where[m][i]:
                continue
            scaled = [x / temperatures[m] for x in teacher[i]]
            parts.append((weight, softmax(scaled) if space == "probability" else scaled))
            total += weight
        if total > 0:
            for c in range(classes):
                mean = math.fsum(weight * part[c] for weight, part in parts) / total
                out[i, c] = math.log(mean) if space == "probability" else mean
    return out


def reliability(
    teacher: Rows,
    labels: Any,
    where: Any,
    trust: Sequence[float] | None,
    temperature: float,
    strength: float,
) -> np.ndarray:
    """1 − κ (1 − Q σ(margin / τ)), 0 where the row does not count."""
    out = []
    for i in range(len(teacher)):
        label = _label(labels, i)
        if not where[i] or label == -100:
            out.append(0.0)
            continue
        y = target_class(label)
        margin = teacher[i][y] - max(x for c, x in enumerate(teacher[i]) if c != y)
        r = 1 / (1 + math.exp(-margin / temperature)) * (1.0 if trust is None else trust[y])
        out.append(1 - strength * (1 - r))
    return np.array(out)


def repaired(teacher: Rows, labels: Any, r: Sequence[float], smoothing: float) -> np.ndarray:
    """log( r p + (1 − r) ((1 − ε) y + ε / C) )."""
    out = np.zeros(np.shape(teacher))
    for i in range(len(teacher)):
        p, classes = softmax(teacher[i]), len(teacher[i])
        label = _label(labels, i)
        trust = 1.0 if label == -100 else min(1.0, max(0.0, r[i]))
        y = [0.0] * classes if label == -100 else class_weights(label, classes)
        for c in range(classes):
            smooth = (1 - smoothing) * y[c] + smoothing / classes
            out[i, c] = math.log(trust * p[c] + (1 - trust) * smooth)
    return out


def adaptive(case: Case, r: Sequence[float], **settings: Any) -> np.ndarray:
    """Each row of `adaptive_mcld_loss`, its terms taken from the oracles of the core."""
    chosen = {"weight_instance": 1.0, "weight_sample": 0.25, "weight_category": 1.0}
    chosen |= {"weight_ce": 0.0} | settings
    one = {"reduction": "none", **settings}
    ins, sam, cat, ce = (
        f(case, **one) for f in (instance_wise, sample_wise, category_wise, cross_entropy)
    )
    out = []
    for i in range(len(ins)):
        row = r[i] * (chosen["weight_instance"] * ins[i] + chosen["weight_sample"] * sam[i])
        row += case.progress * chosen["weight_category"] * cat[i]
        row += (chosen["weight_ce"] + (1 - r[i]) * chosen["weight_instance"]) * ce[i]
        out.append(row)
    return np.array(out)


def bounded(rows: Sequence[float], q: float) -> np.ndarray:
    """(1 − exp(−q L)) / q of each row; L at q = 0."""
    return np.array([x if q == 0 else -math.expm1(-q * x) / q for x in rows])


def outliers(teacher: Rows, labels: Any, where: Any, cutoff: float) -> np.ndarray:
    """min(1, cos(p_i, mean of the other rows of the label) / cutoff)."""
    classes, out = len(teacher[0]), []
    kept = [bool(where[i]) and _label(labels, i) != -100 for i in range(len(teacher))]
    for i in range(len(teacher)):
        if not kept[i]:
            out.append(0.0)
            continue
        mean, mass = [0.0] * classes, 0.0
        for j in range(len(teacher)):
            if j == i or not kept[j]:
                continue
            own, other = (class_weights(_label(labels, k), classes) for k in (i, j))
            share = math.fsum(a * b for a, b in zip(own, other, strict=True))
            mass += share
            mean = [m + share * p for m, p in zip(mean, softmax(teacher[j]), strict=True)]
        p = softmax(teacher[i])
        if mass == 0:
            out.append(1.0)
            continue
        length = math.hypot(*p) * math.hypot(*mean)
        cosine = math.fsum(a * b for a, b in zip(p, mean, strict=True)) / length
        out.append(min(1.0, cosine / cutoff))
    return np.array(out)


def _label(labels: Any, i: int) -> Any:
    return int(labels[i]) if np.ndim(labels) == 1 else [float(x) for x in labels[i]]

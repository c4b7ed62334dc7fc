"""The small definitions: softmax, divergence, affinity and similarity of two rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Row = Sequence[float]
DEFAULT_TEMPERATURE = {"probability": 1.0, "pearson": 0.1, "cosine": 0.1}
EPS = 2.0**-52


def log_sum_exp(values: Row) -> float:
    """Log Σ exp v; −inf for no value."""
    top = max(values, default=-math.inf)
    if math.isinf(top):
        return top
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


def log_softmax(row: Row, temperature: float = 1.0) -> list[float]:
    """Logarithm of softmax(row / temperature)."""
    scaled = [value / temperature for value in row]
    total = log_sum_exp(scaled)
    return [value - total for value in scaled]


def softmax(row: Row, temperature: float = 1.0) -> list[float]:
    """softmax(row / temperature)."""
    return [math.exp(value) for value in log_softmax(row, temperature)]


def divergence(log_p: Row, log_q: Row) -> float:
    """KL(p ‖ q) of two log distributions, 0·log 0 = 0."""
    parts = []
    for a, b in zip(log_p, log_q, strict=True):
        if a > -math.inf:
            parts.append(math.exp(a) * (a - b))
    return math.fsum(parts)


def class_weights(label: Any, classes: int) -> list[float]:
    """The label as class weights: one-hot for a class number."""
    if isinstance(label, int):
        return [1.0 if c == label else 0.0 for c in range(classes)]
    return [float(weight) for weight in label]


def affinity(left: Any, right: Any, classes: int) -> float:
    """A: 1 for equal class numbers, else 0; the inner product where a label is soft."""
    if isinstance(left, int) and isinstance(right, int):
        return 1.0 if left == right else 0.0
    pairs = zip(class_weights(left, classes), class_weights(right, classes), strict=True)
    return min(1.0, max(0.0, math.fsum(a * b for a, b in pairs)))


def key_vector(row: Row, settings: dict[str, Any]) -> list[float]:
    """What stands for a teacher row: its probabilities, or its logits."""
    if settings["similarity"] == "probability":
        return softmax(row, settings["key_temperature"])
    return list(row)


def similarity(student: Row, key: Row, settings: dict[str, Any]) -> float:
    """S of one student row and one key vector."""
    kind = settings["similarity"]
    temperature = settings["temperature"]
    if temperature is None:
        temperature = float(len(student)) if kind == "dot" else DEFAULT_TEMPERATURE[kind]
    if kind in ("probability", "dot"):
        # 0 · (−inf) = 0: a class of probability 0
        parts = (a * b for a, b in zip(student, key, strict=True) if b != 0.0)
        return math.fsum(parts) / temperature
    left, right = _direction(student, kind), _direction(key, kind)
    if left is None or right is None:
        return 0.0
    return math.fsum(a * b for a, b in zip(left, right, strict=True)) / temperature


def _direction(row: Row, kind: str) -> list[float] | None:
    """The row (mean-centred for Pearson) at length 1, or None if it counts as constant."""
    mean = math.fsum(row) / len(row) if kind == "pearson" else 0.0
    centred = [value - mean for value in row]
    length = math.sqrt(math.fsum(value * value for value in centred))
    if length <= 32 * EPS * math.sqrt(math.fsum(value * value for value in row)):
        return None
    return [value / length for value in centred]

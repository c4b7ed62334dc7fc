"""The terms of one row each, from their formulas."""

from __future__ import annotations

import math
from typing import Any

from tests.oracles.case import View
from tests.oracles.rows import (
    affinity,
    class_weights,
    divergence,
    key_vector,
    log_softmax,
    log_sum_exp,
    similarity,
    softmax,
)


def instance_row(v: View, i: int) -> float:
    """−S_own + log( exp S_own + Σ_{j≠own} (1 − A_ij) exp S_ij ) over the keys that it sees."""
    if v.settings["soft_targets"]:
        return relational_row(v, i)
    own = v.own[i]
    positive = similarity(v.student[i], key_vector(v.keys[own], v.settings), v.settings)
    exponents = [positive]
    for j in range(len(v.keys)):
        if j == own or not v.compared[i][j]:
            continue
        negative = 1.0
        if v.settings["target_mask"]:
            negative = 1.0 - affinity(v.labels[i], v.key_labels[j], v.classes)
        if negative > 1e-6:
            s_ij = similarity(v.student[i], key_vector(v.keys[j], v.settings), v.settings)
            exponents.append(s_ij + math.log(negative))
    return log_sum_exp(exponents) - positive


def relational_row(v: View, i: int) -> float:
    """KL( softmax_j S^t_ij ‖ softmax_j S_ij ) over the keys that row i sees."""
    of_teacher, of_student = [], []
    for j in range(len(v.keys)):
        if v.compared[i][j]:
            key = key_vector(v.keys[j], v.settings)
            of_teacher.append(similarity(v.teacher[i], key, v.settings))
            of_student.append(similarity(v.student[i], key, v.settings))
    return divergence(log_softmax(of_teacher), log_softmax(of_student))


def category_row(v: View, i: int) -> float:
    """The category-wise term of row i, in the reading that the settings choose."""
    contrast = v.settings["category_contrast"]
    if contrast == "labels":
        return _category_labels(v, i)
    if contrast == "prototypes":
        return _category_prototypes(v, i)
    return _category_columns(v, i)


def _category_labels(v: View, i: int) -> float:
    """Log Σ_k exp S_ik − Σ_j w_ij S_ij, w_ij = A_ij / Σ_k A_ik."""
    exponents, weights = [], []
    for j in range(len(v.keys)):
        if v.compared[i][j]:
            exponents.append(
                similarity(v.student[i], key_vector(v.keys[j], v.settings), v.settings)
            )
            weights.append(affinity(v.labels[i], v.key_labels[j], v.classes))
    return _one_to_many(exponents, weights)


def _category_prototypes(v: View, i: int) -> float:
    """The same against one vector a class; the positive is the row's own class."""
    exponents, weights = [], []
    for c in range(v.classes):
        prototype = class_prototype(v, c)
        if prototype is not None:
            exponents.append(similarity(v.student[i], prototype, v.settings))
            weights.append(class_weights(v.labels[i], v.classes)[c])
    return _one_to_many(exponents, weights)


def class_prototype(v: View, c: int) -> list[float] | None:
    """The given prototype of class c, else the affinity-weighted mean of its kept keys."""
    if v.prototypes is not None:
        return v.prototypes[c]
    members = []
    for j in range(len(v.keys)):
        if v.key_kept[j]:
            weight = class_weights(v.key_labels[j], v.classes)[c]
            if weight > 0:
                members.append((weight, key_vector(v.keys[j], v.settings)))
    if not members:
        return None
    total = math.fsum(weight for weight, _ in members)
    return [
        math.fsum(weight * vector[k] for weight, vector in members) / total
        for k in range(v.classes)
    ]


def _one_to_many(exponents: list[float], weights: list[float]) -> float:
    total = math.fsum(weights)
    if total == 0.0:
        return 0.0
    positives = math.fsum(w * s for w, s in zip(weights, exponents, strict=True)) / total
    return log_sum_exp(exponents) - positives


def _category_columns(v: View, i: int) -> float:
    """B' Σ_c ω_c q^t_ic log( q^t_ic / q^s_ic ) over the B' kept rows."""
    rows = [k for k in range(len(v.student)) if v.kept[k]]
    count = len(rows)
    teacher = {k: softmax(v.teacher[k], v.settings["key_temperature"]) for k in rows}
    teacher_log = {k: log_softmax(v.teacher[k], v.settings["key_temperature"]) for k in rows}
    student_log = {k: log_softmax(v.student[k]) for k in rows}
    parts = []
    for c in range(v.classes):
        if teacher[i][c] == 0.0:
            continue
        omega = math.fsum(teacher[k][c] for k in rows) / count
        log_q_teacher = teacher_log[i][c] - log_sum_exp([teacher_log[k][c] for k in rows])
        log_q_student = student_log[i][c] - log_sum_exp([student_log[k][c] for k in rows])
        parts.append(omega * math.exp(log_q_teacher) * (log_q_teacher - log_q_student))
    return count * math.fsum(parts)


def sample_row(v: View, i: int) -> float:
    """The sample-wise term of row i under the settings."""
    temperature = v.settings["sample_temperature"]
    if not v.settings["sample_target_mask"]:
        return plain_row(v.student[i], v.teacher[i], temperature)
    target = target_class(v.labels[i])
    beta = v.settings["beta"]
    return decoupled_row(v.student[i], v.teacher[i], target, 1.0, beta, temperature)


def plain_row(student: list[float], teacher: list[float], temperature: float) -> float:
    """T² KL( softmax(t/T) ‖ softmax(s/T) )."""
    teacher_log = log_softmax(teacher, temperature)
    return temperature**2 * divergence(teacher_log, log_softmax(student, temperature))


def decoupled_row(
    student: list[float],
    teacher: list[float],
    target: int,
    alpha: float,
    beta: float,
    temperature: float,
) -> float:
    """T² [ α KL(b(t̃) ‖ b(s̃)) + β KL(the others ‖ the others) ]."""
    if len(student) == 1:
        return 0.0
    binary = divergence(
        _binary(teacher, target, temperature), _binary(student, target, temperature)
    )
    others = divergence(
        log_softmax(_without(teacher, target), temperature),
        log_softmax(_without(student, target), temperature),
    )
    return temperature**2 * (alpha * binary + beta * others)


def _binary(row: list[float], target: int, temperature: float) -> list[float]:
    """(log σ(u), log(1 − σ(u))), u = z_y − logsumexp of the others, all over T."""
    rest = log_sum_exp([value / temperature for value in _without(row, target)])
    return log_softmax([row[target] / temperature, rest])


def _without(row: list[float], target: int) -> list[float]:
    return [value for c, value in enumerate(row) if c != target]


def target_class(label: Any) -> int:
    """The class number, or the arg max of a soft label."""
    if isinstance(label, int):
        return label
    return max(range(len(label)), key=lambda c: label[c])


def cross_entropy_row(v: View, i: int) -> float:
    """−Σ_c y_ic log softmax(s_i)_c."""
    log_p = log_softmax(v.student[i])
    weights = class_weights(v.labels[i], v.classes)
    return -math.fsum(w * value for w, value in zip(weights, log_p, strict=True) if w > 0)

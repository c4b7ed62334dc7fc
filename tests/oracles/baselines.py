"""The baselines from their formulas, in loops."""

from __future__ import annotations

import math
from typing import Any

from tests.oracles.case import Case, View, view
from tests.oracles.objective import reduced
from tests.oracles.rows import EPS, divergence, log_softmax, log_sum_exp, softmax
from tests.oracles.terms import decoupled_row, target_class


def kd_loss(
    case: Case,
    reduction: str = "mean",
    temperature: float = 4.0,
    standardize: bool = False,
    divergence: str = "forward",
    mix: float = 0.5,
) -> Any:
    """T² times a divergence of softmax(t/T) and softmax(s/T); labels play no part."""

    def row(v: View, i: int) -> float:
        s, t = v.student[i], v.teacher[i]
        if len(s) == 1:
            return 0.0
        if standardize:
            s, t = _standardized(s), _standardized(t)
        log_q, log_p = log_softmax(s, temperature), log_softmax(t, temperature)
        return temperature**2 * _DIVERGENCES[divergence](log_p, log_q, mix)

    return reduced(view(case.but(labels=None, keys=None), {}), row, reduction)


def dkd_loss(
    case: Case,
    reduction: str = "mean",
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Any:
    """The decoupled loss with its two weights."""

    def row(v: View, i: int) -> float:
        target = target_class(v.labels[i])
        return decoupled_row(v.student[i], v.teacher[i], target, alpha, beta, temperature)

    return reduced(view(case.but(keys=None), {}), row, reduction)


def nkd_loss(
    case: Case, reduction: str = "mean", gamma: float = 1.5, temperature: float = 1.0
) -> Any:
    """−p_y log q_y − γ T² Σ_{c≠y} p̂_c log q̂_c."""

    def row(v: View, i: int) -> float:
        y = target_class(v.labels[i])
        s, t = v.student[i], v.teacher[i]
        if len(s) == 1:
            return 0.0
        value = -softmax(t)[y] * log_softmax(s)[y]
        rest = [c for c in range(len(s)) if c != y]
        q = log_softmax([s[c] for c in rest], temperature)
        p = softmax([t[c] for c in rest], temperature)
        cross = math.fsum(a * b for a, b in zip(p, q, strict=True) if a > 0)
        return value - gamma * temperature**2 * cross

    return reduced(view(case.but(keys=None), {}), row, reduction)


def ttm_loss(case: Case, reduction: str = "mean", gamma: float = 0.1, weighted: bool = True) -> Any:
    """U KL(p^γ / U ‖ q), U = Σ p^γ; without U in front where it is not weighted."""

    def row(v: View, i: int) -> float:
        if len(v.student[i]) == 1:
            return 0.0
        power = [p**gamma for p in softmax(v.teacher[i])]
        whole = math.fsum(power)
        log_p = [math.log(p / whole) if p > 0 else -math.inf for p in power]
        value = divergence(log_p, log_softmax(v.student[i]))
        return whole * value if weighted else value

    return reduced(view(case.but(labels=None, keys=None), {}), row, reduction)


def rld_loss(
    case: Case,
    reduction: str = "mean",
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    alpha_temperature: float = 1.0,
) -> Any:
    """α T_α² KL(b(p_max) ‖ b(q_y)) + β T² KL over the classes below the label."""

    def row(v: View, i: int) -> float:
        y = target_class(v.labels[i])
        s, t = v.student[i], v.teacher[i]
        if len(s) == 1:
            return 0.0
        log_p, log_q = log_softmax(t, alpha_temperature), log_softmax(s, alpha_temperature)
        best = max(range(len(t)), key=lambda c: t[c])
        value = divergence(_event(log_p, best), _event(log_q, y)) * alpha * alpha_temperature**2
        below = [c for c in range(len(t)) if t[c] < t[y]]
        if any(t[c] > -math.inf for c in below):
            ours, theirs = ([z[c] for c in below] for z in (s, t))
            apart = divergence(log_softmax(theirs, temperature), log_softmax(ours, temperature))
            value += beta * temperature**2 * apart
        return value

    return reduced(view(case.but(keys=None), {}), row, reduction)


def dist_loss(
    case: Case,
    reduction: str = "mean",
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Any:
    """T² [ β (1 − ρ of the row) + γ (1 − mean ρ of the columns over the kept rows) ]."""
    v = view(case.but(labels=None, keys=None), {})
    kept = [i for i in range(len(v.student)) if v.kept[i]]
    classes = len(v.student[0])
    q, p = ({i: softmax(z[i], temperature) for i in kept} for z in (v.student, v.teacher))
    of_columns = [
        _correlation([q[i][c] for i in kept], [p[i][c] for i in kept]) for c in range(classes)
    ]

    def row(_: View, i: int) -> float:
        if classes == 1:
            return 0.0
        columns = 1 - math.fsum(of_columns) / classes
        return temperature**2 * (beta * (1 - _correlation(q[i], p[i])) + gamma * columns)

    return reduced(v, row, reduction)


def _standardized(row: list[float]) -> list[float]:
    finite = [value for value in row if value > -math.inf]
    mean = math.fsum(finite) / len(finite)
    variance = math.fsum((value - mean) ** 2 for value in finite) / max(len(finite) - 1, 1)
    return [(value - mean) / (math.sqrt(variance) + 1e-7) for value in row]


def _jsd(log_p: list[float], log_q: list[float], mix: float) -> float:
    log_m = [
        log_sum_exp([a + math.log(mix), b + math.log(1 - mix)])
        for a, b in zip(log_p, log_q, strict=True)
    ]
    return mix * divergence(log_p, log_m) + (1 - mix) * divergence(log_q, log_m)


_DIVERGENCES = {
    "forward": lambda log_p, log_q, _: divergence(log_p, log_q),
    "reverse": lambda log_p, log_q, _: divergence(log_q, log_p),
    "jsd": _jsd,
}


def _event(log_p: list[float], event: int) -> list[float]:
    """Return the logarithms of one class's probability and of the rest's."""
    return [log_p[event], log_sum_exp([x for c, x in enumerate(log_p) if c != event])]


def _correlation(x: list[float], y: list[float]) -> float:
    units = []
    for row in (x, y):
        mean = math.fsum(row) / len(row)
        centred = [value - mean for value in row]
        length = math.sqrt(math.fsum(value**2 for value in centred))
        if length <= 32 * EPS * math.sqrt(math.fsum(value**2 for value in row)):
            return 0.0
        units.append([value / length for value in centred])
    return math.fsum(a * b for a, b in zip(*units, strict=True))

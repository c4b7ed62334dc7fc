"""The losses of a whole batch, from the rows' terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles.case import Case, View, view
from tests.oracles.rows import key_vector, similarity
from tests.oracles.terms import category_row, cross_entropy_row, instance_row, sample_row


def ramp(progress: float, warmup: float) -> float:
    """How much of the category-wise term counts."""
    if warmup == 0:
        return 1.0
    return min(1.0, max(0.0, progress / warmup))


def instance_wise(case: Case, reduction: str = "mean", **settings: Any) -> Any:
    """L_ins of a case."""
    return reduced(view(case, settings), instance_row, reduction)


def category_wise(case: Case, reduction: str = "mean", **settings: Any) -> Any:
    """L_cat of a case."""
    return reduced(view(case, settings), category_row, reduction)


def sample_wise(case: Case, reduction: str = "mean", **settings: Any) -> Any:
    """L_sam of a case."""
    return reduced(view(case, settings), sample_row, reduction)


def cross_entropy(case: Case, reduction: str = "mean", **settings: Any) -> Any:
    """L_ce of a case."""
    return reduced(view(case, settings), cross_entropy_row, reduction)


def mcld_loss(case: Case, reduction: str = "mean", **settings: Any) -> Any:
    """L of a case."""
    v = view(case, settings)
    s = v.settings
    share = ramp(case.progress, s["category_warmup"])

    def total(v: View, i: int) -> float:
        loss = 0.0
        if s["weight_instance"] != 0:
            loss += s["weight_instance"] * instance_row(v, i)
        if s["weight_sample"] != 0:
            loss += s["weight_sample"] * sample_row(v, i)
        if s["weight_category"] != 0:
            loss += share * s["weight_category"] * category_row(v, i)
        if s["weight_ce"] != 0:
            loss += s["weight_ce"] * cross_entropy_row(v, i)
        return loss

    return reduced(v, total, reduction)


def terms(case: Case, reduction: str = "mean", **settings: Any) -> dict[str, Any]:
    """What `return_terms=True` gives beside the loss."""
    v = view(case, settings)
    rows = {"instance": instance_row, "sample": sample_row, "category": category_row}
    if v.settings["weight_ce"] != 0:
        rows["ce"] = cross_entropy_row
    found = {}
    for name, row in rows.items():
        used = v.settings[f"weight_{name}"] != 0
        found[name] = reduced(v, row if used else _zero, reduction)
    found["ramp"] = ramp(case.progress, v.settings["category_warmup"])
    return found


def scale(case: Case, **settings: Any) -> float:
    """M = max(1, max|S|) over the kept rows and keys: what the tolerances grow with."""
    v = view(case, settings)
    largest = 1.0
    for i in range(len(v.student)):
        for j in range(len(v.keys)):
            if v.kept[i] and v.key_kept[j]:
                key = key_vector(v.keys[j], v.settings)
                largest = max(largest, abs(similarity(v.student[i], key, v.settings)))
    return largest


def reduced(v: View, row: Callable[[View, int], float], reduction: str) -> Any:
    """v_i L_i, their sum, or their sum over Σ v_i (or the normalizer): 0 where that is 0."""
    rows = [v.values[i] * row(v, i) if v.kept[i] else 0.0 for i in range(len(v.student))]
    if reduction == "none":
        return np.array(rows, np.float64)
    total = math.fsum(rows)
    if reduction == "sum":
        return total
    divisor = math.fsum(v.values) if v.normalizer is None else v.normalizer
    return total / divisor if divisor != 0 else 0.0


def _zero(v: View, i: int) -> float:
    return 0.0

"""The losses that the text and the time-series example compare, by the names of their tables."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from mcld_core import MCLDConfig, kd_loss, mcld_loss
from mcld_core.extensions.nlp import token_mcld_loss
from mcld_core.extensions.timeseries import window_mcld_loss

METHODS = ("ce", "kd", "mcld", "mcld+ce", "instance", "sample", "category")
ROW_METHODS = (*METHODS, "ce+sample", "kd T=1", "kd T=4", "kd T=8")
"""Those of rows: KD at other temperatures than 2 too, the sample-wise term with cross-entropy."""
TOKEN_METHODS = (*METHODS, "kd alone", "mcld+prior", "mcld+prior, sample 1")
"""Those of tokens: KD without cross-entropy, the class prior, a larger sample-wise weight."""
_ALONE = {"weight_instance": 0.0, "weight_sample": 0.0, "weight_category": 0.0}
_WEIGHTS: dict[str, dict[str, float]] = {
    "mcld": {},
    "mcld+ce": {"weight_ce": 1.0},
    "mcld+prior": {},
    "mcld+prior, sample 1": {"weight_sample": 1.0},
    "mcld, overlap not masked": {},
    "ce+sample": _ALONE | {"weight_sample": 0.25, "weight_ce": 1.0},
    "instance": _ALONE | {"weight_instance": 1.0},
    "sample": _ALONE | {"weight_sample": 1.0},
    "category": _ALONE | {"weight_category": 1.0, "category_warmup": 0.0},
}


def plain_loss(
    method: str,
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Return cross-entropy (``"ce"``), ``"kd alone"``, or half of each (``"kd"``) over all rows."""
    classes = student.shape[-1]
    rows = student.reshape(-1, classes)
    ce = cross_entropy(rows, labels.reshape(-1))
    if method == "ce":
        return ce
    kd = kd_loss(rows, teacher.reshape(-1, classes), temperature=temperature)
    return kd if method == "kd alone" else 0.5 * ce + 0.5 * kd


def temperature_of(method: str) -> float:
    """Return KD's temperature from the row's name; 2 where that says nothing."""
    return float(method.partition("T=")[2] or 2)


def row_loss(
    method: str,
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    progress: float,
) -> torch.Tensor:
    """Return the loss of a method on logits (batch, classes), one row a text."""
    if method == "ce" or method.startswith("kd"):
        return plain_loss(method, student, teacher, labels, temperature_of(method))
    config = MCLDConfig(**_WEIGHTS[method])
    return mcld_loss(student, teacher, labels, config=config, progress=progress)


def token_loss(
    method: str,
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    progress: float,
    counts: torch.Tensor,
) -> torch.Tensor:
    """Return the loss of a method on logits (batch, tokens, vocabulary).

    ``counts`` are those of the vocabulary in the training text, for the methods with a prior.
    """
    if method in ("ce", "kd", "kd alone"):
        return plain_loss(method, student, teacher, labels, 1.0)
    config = MCLDConfig(**_WEIGHTS[method])
    prior = counts if "prior" in method else None
    options: dict[str, Any] = {"config": config, "class_prior": prior, "progress": progress}
    options["sequence_contrast"] = float(method == "instance")  # off by default
    return token_mcld_loss(student, teacher, labels, **options)


def window_loss(
    method: str,
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    progress: float,
    places: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Return the loss of a method on windows (batch, classes), or steps (batch, time, bins).

    ``places`` are the windows' ``starts``, ``lengths`` and ``series``; labels are one a row.
    """
    if method == "ce" or method.startswith("kd"):
        return plain_loss(method, student, teacher, labels, temperature_of(method))
    options: dict[str, Any] = {} if method.endswith("not masked") else dict(places)
    if student.ndim == 3:
        options |= {"step_labels": labels, "category": "step"}
    else:
        options["labels"] = labels
    config = MCLDConfig(**_WEIGHTS[method])
    return window_mcld_loss(student, teacher, config=config, progress=progress, **options)
